//! What is wrong with a use of the attribute: all of it is told at once.

use std::fmt::Display;

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::Error;

/// Mistakes, in the order in which they were found.
#[derive(Default)]
pub(crate) struct Mistakes(Option<Error>);

impl Mistakes {
    /// Adds a mistake that was made at `place`.
    pub(crate) fn add(&mut self, place: impl ToTokens, what: impl Display) {
        self.push(Error::new_spanned(place, what));
    }

    /// Adds a mistake.
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(all) => all.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// The value, if nothing is wrong with it.
    pub(crate) fn note<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.push(error)).ok()
    }

    /// The compiler's errors, if there are mistakes.
    pub(crate) fn into_errors(self) -> Option<TokenStream> {
        self.0.map(|all| all.to_compile_error())
    }
}

/// Names in a message: `` `a`, `b` and `c` ``.
pub(crate) fn listed<T: Display>(names: &[T]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
