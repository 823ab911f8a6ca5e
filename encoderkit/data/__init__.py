"""Files to arrays: corpora, the token store, packed rows, labelled rows, and the order in which they are seen."""
