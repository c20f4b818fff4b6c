"""The archive as a data set: filters, tables, SQL and exports. It looks and starts nothing."""
