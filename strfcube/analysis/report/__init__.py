"""A cube as one page that opens in any browser, offline: what it is, what was recorded, and a look at every response.

`write` makes it. What a page holds is collected in numbers (`collect`), packed (`blocks`) and set into the page
(`page`); ``page.js`` unpacks and draws it in the browser.
"""
