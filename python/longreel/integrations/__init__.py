"""longreel's ops inside other libraries' models, without edits to them."""
