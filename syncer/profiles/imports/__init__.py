"""Importers: they turn files of other tools into sync files."""
