"""The jobs as functions: what `import syncer` offers and the command line calls."""
