//! The attribute `#[cached]` of `larder`, which has it behind the feature `macros`.

use proc_macro::TokenStream;
use quote::quote;
use syn::parse_macro_input;

mod duration;
mod expand;
mod function;
mod key;
mod mistakes;
mod options;

use expand::Cached;
use function::Function;
use mistakes::Mistakes;
use options::{AllWritten, Options};

/// TODO docs
#[proc_macro_attribute]
pub fn cached(options: TokenStream, function: TokenStream) -> TokenStream {
    let function = parse_macro_input!(function as Function);
    let mut mistakes = Mistakes::default();
    let options = match syn::parse::<AllWritten>(options) {
        Ok(written) => Options::check(written, &mut mistakes),
        Err(error) => {
            let errors = error.to_compile_error();
            return quote!(#errors #function).into();
        }
    };
    let cached = Cached::check(function, options, &mut mistakes);
    match (mistakes.into_errors(), cached) {
        (None, Ok(cached)) => cached.expand().into(),
        (errors, Ok(cached)) => {
            let function = cached.into_function();
            quote!(#errors #function).into()
        }
        (errors, Err(function)) => quote!(#errors #function).into(),
    }
}
