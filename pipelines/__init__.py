"""Ingest pipelines, one module a data set, found by name through the ``strfcube.pipelines`` entry points."""
