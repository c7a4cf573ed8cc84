//! What `docs/security.md` says: the least rights that larder needs, and that no namespace reaches another one's keys,
//! whatever it is given. `LARDER_FULL=1` runs the full counts.

mod acl;
mod isolation;

/// A tenth of a count, unless all were asked for.
fn times(full: u64) -> u64 {
    let all = std::env::var_os("LARDER_FULL").is_some_and(|set| set == "1");
    if all { full } else { full / 10 }
}

/// A file of the repository.
fn text_of(path: &str) -> String {
    let whole = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}
