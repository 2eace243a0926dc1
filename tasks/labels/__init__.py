"""Labels of texts as data has them: names, numbers, printed lists, and values that do not count."""
