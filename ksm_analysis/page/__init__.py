"""The HTML page: figures, tables, text and rendering."""
