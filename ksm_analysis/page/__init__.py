"""The page: figures, tables, words, rendering."""
