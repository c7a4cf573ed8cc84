//! What `docs/security.md` says: the least rights that larder needs, and that no namespace reaches another one's keys,
//! whatever it is given. `LARDER_FULL=1` runs the full counts.

mod acl;
#[path = "../common/mod.rs"]
mod common;
mod isolation;

use common::times;

/// A file of the repository.
fn text_of(path: &str) -> String {
    let whole = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}
