"""The core: what is explained (`Problem`), where (`Site`), what of (`Target`), and the record (`Explanation`)."""
