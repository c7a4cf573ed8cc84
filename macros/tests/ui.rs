//! What the compiler says of a `#[cached]` that is wrong. `TRYBUILD=overwrite` writes what it says now.

#[test]
fn a_mistake_is_an_error_that_says_what_to_write() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass.rs");
    for wrong in ["functions", "keys", "options", "returns", "types", "alias"] {
        cases.compile_fail(format!("tests/ui/{wrong}.rs"));
    }
}
