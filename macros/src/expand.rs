//! The code that takes the place of the function.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{FnArg, GenericParam, Ident, Pat, Signature};

use crate::function::{Argument, Failure, Function, Returned, mentions};
use crate::key::{self, Part};
use crate::mistakes::{Mistakes, listed};
use crate::options::Options;

/// A function that is fit to be cached, with its options.
pub(crate) struct Cached<'a> {
    function: &'a Function,
    options: &'a Options,
    arguments: Vec<Argument>,
    returned: Returned,
    parts: Vec<Part>,
}

impl<'a> Cached<'a> {
    /// Checks the function and its options against each other, and notes every mistake.
    pub(crate) fn check(
        function: &'a Function,
        options: &'a Options,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        function.check(mistakes);
        let arguments = function.arguments(mistakes);
        let returned = function.returned(mistakes);
        let parts = options.key.as_ref().and_then(|key| mistakes.note(key::parts(key)));
        let checked = Checked { function, options, arguments: &arguments };
        checked.check_cache(mistakes);
        checked.check_skip(parts.as_deref().unwrap_or_default(), mistakes);
        match &parts {
            Some(parts) => checked.check_key(parts, mistakes),
            None if !options.key_is_given => checked.missing_key(mistakes),
            None => {}
        }
        let (returned, parts) = (returned?, parts?);
        Some(Self { function, options, arguments, returned, parts })
    }

    /// The function that reads through the cache, and its companion.
    pub(crate) fn expand(&self) -> TokenStream {
        let Function { attrs, vis, .. } = self.function;
        let sig = self.function.outer_signature();
        let cached = self.read();
        let companion = self.companion();
        quote! {
            #(#attrs)* #vis #sig { #cached }
            #companion
        }
    }

    /// The body of the function.
    fn read(&self) -> TokenStream {
        let Returned { ty, value, error, shape } = &self.returned;
        let (site, head, parts) = (self.site(), self.head(), self.key());
        let (cached, client, body) = (name("cached"), name("client"), name("body"));
        let run = self.body();
        let checked = quote_spanned!(value.span()=> ::larder::__cached::value::<#value>(););
        let answer = match error {
            Some(failure) => {
                let (failed, place) = match failure {
                    Failure::Written(error) => (quote!(#error), error.span()),
                    Failure::Implied => {
                        (quote!(<#ty as ::larder::__cached::Fallible>::Error), ty.span())
                    }
                };
                let checked = quote_spanned!(place=> ::larder::__cached::failure::<#failed>(););
                let error = name("error");
                quote! {
                    #checked
                    ::larder::__cached::fallible(#shape, &#cached, #client, #parts, #body, |#error| {
                        use ::larder::__cached::{Cloned as _, Wrapped as _};
                        (&::larder::__cached::Errors::<#failed>::NEW).error(#error)
                    })
                    .await
                }
            }
            None => {
                let checked = quote_spanned! {ty.span()=>
                    const {
                        // Found only by what is no `Result`.
                        #[allow(unused_imports)]
                        use ::larder::__cached::NoResult as _;
                        ::core::assert!(
                            !::larder::__cached::Probe::<#ty>::IS_RESULT,
                            "this is a `Result` under another name: write `Result<T, E>`"
                        );
                    }
                };
                quote! {
                    #checked
                    ::larder::__cached::infallible(#shape, &#cached, #client, #parts, #body).await
                }
            }
        };
        quote!(#site #checked #head #run #answer)
    }

    /// The namespace, which outlives the calls.
    fn site(&self) -> TokenStream {
        let (cached, settings) = (name("cached"), &self.options.settings);
        let (namespace, builder) = (&self.options.namespace, name("namespace"));
        quote! {
            static #cached: ::larder::__cached::CachedFn =
                ::larder::__cached::CachedFn::new(#namespace, |#builder| #builder #settings);
        }
    }

    /// The client that is used.
    fn head(&self) -> TokenStream {
        let client = name("client");
        match &self.options.cache {
            // A borrowed one is as welcome as one of its own.
            Some(cache) => quote_spanned! {cache.span()=>
                #[allow(clippy::needless_borrow)]
                let #client: &::larder::CacheClient = &#cache;
            },
            None => quote!(let #client: &::larder::CacheClient = &::larder::cache();),
        }
    }

    /// The key of a call.
    fn key(&self) -> TokenStream {
        let key = name("key");
        let written = key::written(&self.parts, &key);
        quote!(::larder::__cached::Parts(|#key: &mut ::larder::KeyWriter| { #written }))
    }

    /// The body as a loader, which may run more than once.
    fn body(&self) -> TokenStream {
        let (run, body, ty) = (name("body"), &self.function.body, &self.returned.ty);
        let each = self.arguments.iter().map(|argument| {
            let Argument { name, mutability, ty } = argument;
            // Its use in the key is a use.
            let unused = self.uses(name).then(|| quote!(#[allow(unused_variables)]));
            quote_spanned! {ty.span()=>
                #unused let #mutability #name = ::larder::__cached::argument(&#name);
            }
        });
        quote! {
            let #run = || {
                #(#each)*
                async move {
                    if false {
                        return ::larder::__cached::returns::<#ty>();
                    }
                    #body
                }
            };
        }
    }

    /// The function that invalidates, if it is asked for.
    fn companion(&self) -> Option<TokenStream> {
        let wanted = self.options.invalidate.as_ref()?;
        let Function { attrs, vis, sig, .. } = self.function;
        let ident = wanted.clone().unwrap_or_else(|| format_ident!("{}_invalidate", sig.ident));
        let conditions = attrs.iter().filter(|attr| attr.path().is_ident("cfg"));
        let docs = format!(
            "Says that what `{}` gave is not true any more: see `larder::Namespace::invalidate`.\n\n\
             # Errors\nAs that method.",
            sig.ident
        );
        let sig = self.companion_signature(ident);
        let (cached, client) = (name("cached"), name("client"));
        let (site, head, key) = (self.site(), self.head(), self.key());
        Some(quote! {
            #(#conditions)*
            #[doc = #docs]
            #[allow(dead_code)]
            #vis #sig {
                #site #head
                ::larder::__cached::invalidate(&#cached, #client, #key).await
            }
        })
    }

    /// The signature with what the key and the client need, and no more.
    fn companion_signature(&self, ident: Ident) -> Signature {
        let mut sig = self.function.outer_signature();
        sig.ident = ident;
        sig.output = syn::parse_quote!(-> ::larder::Result<()>);
        sig.inputs = sig
            .inputs
            .into_iter()
            .filter(|input| match input {
                FnArg::Receiver(_) => true,
                FnArg::Typed(typed) => {
                    matches!(&*typed.pat, Pat::Ident(pat) if self.uses(&pat.ident))
                }
            })
            .collect();
        // A type that nothing tells of could not be found at the call.
        let mut kept = Vec::new();
        loop {
            let inputs = &sig.inputs;
            let params = sig.generics.params.iter();
            let more: Vec<Ident> = params
                .clone()
                .filter(|param| !kept.contains(param_name(param)))
                .filter(|param| {
                    let name = param_name(param);
                    mentions(quote!(#inputs), name)
                        || params.clone().any(|other| {
                            kept.contains(param_name(other)) && mentions(quote!(#other), name)
                        })
                })
                .map(|param| param_name(param).clone())
                .collect();
            if more.is_empty() {
                break;
            }
            kept.extend(more);
        }
        let (kept_params, dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut sig.generics.params)
            .into_iter()
            .partition(|param| kept.contains(param_name(param)));
        sig.generics.params = kept_params.into_iter().collect();
        if let Some(bounds) = &mut sig.generics.where_clause {
            bounds.predicates = std::mem::take(&mut bounds.predicates)
                .into_iter()
                .filter(|bound| !dropped.iter().any(|param| mentions(bound, param_name(param))))
                .collect();
        }
        sig
    }

    /// Whether the key or the client needs an argument.
    fn uses(&self, argument: &Ident) -> bool {
        self.options.cache.as_ref().is_some_and(|cache| mentions(cache, argument))
            || named(&self.parts).any(|(root, part)| root == argument || mentions(part, argument))
    }
}

/// A name that no name of the user's can meet.
fn name(name: &str) -> Ident {
    Ident::new(&format!("__larder_{name}"), Span::mixed_site())
}

fn param_name(param: &GenericParam) -> &Ident {
    match param {
        GenericParam::Lifetime(param) => &param.lifetime.ident,
        GenericParam::Type(param) => &param.ident,
        GenericParam::Const(param) => &param.ident,
    }
}

/// The arguments in a key.
fn named(parts: &[Part]) -> impl Iterator<Item = (&Ident, &syn::Expr)> {
    parts.iter().filter_map(|part| match part {
        Part::Given { root, part } => Some((root, &**part)),
        Part::Text(_) => None,
    })
}

/// A function and its options, of which it is not known yet whether they fit.
struct Checked<'a> {
    function: &'a Function,
    options: &'a Options,
    arguments: &'a [Argument],
}

impl Checked<'_> {
    /// The arguments that may tell values apart.
    fn telling(&self) -> Vec<&Ident> {
        let cache = self.options.cache.as_ref();
        self.arguments
            .iter()
            .map(|argument| &argument.name)
            .filter(|name| !self.options.skip.contains(name))
            .filter(|name| !cache.is_some_and(|cache| mentions(cache, name)))
            .collect()
    }

    fn names(&self) -> Vec<&Ident> {
        self.arguments.iter().map(|argument| &argument.name).collect()
    }

    fn has(&self, wanted: &Ident) -> bool {
        self.names().contains(&wanted) || (wanted == "self" && self.function.is_method())
    }

    fn check_cache(&self, mistakes: &mut Mistakes) {
        let this = Ident::new("self", Span::call_site());
        match &self.options.cache {
            Some(cache) if mentions(cache, &this) && !self.function.is_method() => {
                mistakes.add(cache, "there is no `self`: this is no method with `&self`");
            }
            None => {
                if let Some(receiver) = self.function.sig.receiver() {
                    mistakes.add(
                        receiver,
                        "a method says which cache it uses: `cache = self.cache`, if it has one, or \
                         `cache = larder::cache()` for the one of the process",
                    );
                }
            }
            Some(_) => {}
        }
    }

    fn check_skip(&self, parts: &[Part], mistakes: &mut Mistakes) {
        for skipped in &self.options.skip {
            if !self.names().contains(&skipped) {
                mistakes.add(skipped, format!("`{skipped}` is no argument{}", self.there_are()));
            } else if named(parts).any(|(root, _)| root == skipped) {
                mistakes.add(skipped, format!("`{skipped}` is in the key, and skipped as well"));
            }
        }
    }

    fn check_key(&self, parts: &[Part], mistakes: &mut Mistakes) {
        let Some(format) = &self.options.key else { return };
        for (root, _) in named(parts).filter(|(root, _)| !self.has(root)) {
            mistakes.add(format, format!("the key's `{root}` is no argument{}", self.there_are()));
        }
        let telling = self.telling();
        if named(parts).next().is_none()
            && let Some(first) = telling.first()
        {
            mistakes.add(
                format,
                format!(
                    "the key is the same for all calls, whatever is given for {}: name what tells \
                     values apart, as in `{{{first}}}`, and what does not in `skip({first})`",
                    listed(&telling)
                ),
            );
        }
    }

    fn missing_key(&self, mistakes: &mut Mistakes) {
        let telling = self.telling();
        let what = if telling.is_empty() {
            "missing `key`: the name of the one value that there is, as in `key = \"all\"`"
                .to_owned()
        } else {
            let all: Vec<String> = telling.iter().map(|name| format!("{{{name}}}")).collect();
            format!(
                "missing `key`: the arguments that tell values apart; all of them are `key = \"{}\"`",
                all.join(":")
            )
        };
        mistakes.push(syn::Error::new(Span::call_site(), what));
    }

    fn there_are(&self) -> String {
        match self.names().as_slice() {
            [] => "; there are none".to_owned(),
            names => format!("; there are {}", listed(names)),
        }
    }
}
