//! What stands in the brackets of `#[cached(...)]`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Expr, ExprLit, Ident, Lit, LitStr, Token, parenthesized};

use crate::duration;
use crate::mistakes::Mistakes;

/// Every option, as the message about an unknown one lists them.
const KNOWN: [&str; 19] = [
    "namespace",
    "key",
    "ttl",
    "grace",
    "near",
    "cache",
    "skip",
    "invalidate",
    "negative_ttl",
    "jitter",
    "early_refresh",
    "soft_timeout",
    "hard_timeout",
    "lease",
    "near_ttl",
    "near_max_bytes",
    "broadcast",
    "undecodable_as_miss",
    "max_json_bytes",
];

/// Those that say nothing without a near cache.
const OF_NEAR: [&str; 3] = ["near_ttl", "near_max_bytes", "broadcast"];

/// Shorter than a few round trips: the library's own bound.
const SHORTEST_LEASE: u64 = 10;

/// No store takes a larger value: the library's own bound.
const LARGEST_JSON: u64 = 512 << 20;

/// An option as it is written.
pub(crate) struct Written {
    name: Ident,
    value: Value,
}

enum Value {
    /// `near`
    Flag,
    /// `ttl = "5m"`
    Is(Expr),
    /// `skip(db)`
    List(Vec<Ident>),
}

/// All options as they are written.
pub(crate) struct AllWritten(Vec<Written>);

impl Parse for AllWritten {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let all = Punctuated::<Written, Token![,]>::parse_terminated(input)?;
        Ok(Self(all.into_iter().collect()))
    }
}

impl Parse for Written {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if !input.peek(Ident::peek_any) {
            return Err(input.error("expected an option, as in `ttl = \"5m\"`"));
        }
        let name = Ident::parse_any(input)?;
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            Value::Is(input.parse()?)
        } else if input.peek(syn::token::Paren) {
            let inside;
            parenthesized!(inside in input);
            let names = Punctuated::<Ident, Token![,]>::parse_terminated(&inside)?;
            Value::List(names.into_iter().collect())
        } else {
            Value::Flag
        };
        Ok(Self { name, value })
    }
}

/// The options, checked as far as they can be without the function.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) namespace: Option<LitStr>,
    pub(crate) key: Option<LitStr>,
    /// Whether there is one, be it wrong.
    pub(crate) key_is_given: bool,
    pub(crate) cache: Option<Expr>,
    pub(crate) skip: Vec<Ident>,
    /// The name of the companion, or nothing for the usual one.
    pub(crate) invalidate: Option<Option<Ident>>,
    /// Calls of the namespace's builder.
    pub(crate) settings: TokenStream,
}

/// An option that is a duration, in milliseconds.
type Time = (Ident, u64);

impl Options {
    /// Checks what is written, and notes every mistake.
    pub(crate) fn check(written: AllWritten, mistakes: &mut Mistakes) -> Self {
        let mut options = Self::default();
        let (mut seen, mut times, mut near) = (Vec::<Ident>::new(), Vec::<Time>::new(), None);
        for Written { name, value } in written.0 {
            let known = name.to_string();
            if !KNOWN.contains(&known.as_str()) {
                let all = KNOWN.join(", ");
                mistakes.add(&name, format!("unknown option `{known}`; there are {all}"));
                continue;
            }
            if seen.contains(&name) {
                mistakes.add(&name, format!("`{known}` is given twice"));
                continue;
            }
            seen.push(name.clone());
            let setting = match known.as_str() {
                "namespace" => {
                    options.namespace = mistakes.note(text(&name, value, "user")).filter(|name| {
                        let wrong = wrong_name(&name.value());
                        wrong.into_iter().for_each(|what| mistakes.add(name, what));
                        wrong.is_none()
                    });
                    None
                }
                "key" => {
                    options.key_is_given = true;
                    options.key = mistakes.note(text(&name, value, "{id}"));
                    None
                }
                "cache" => {
                    options.cache = mistakes.note(match value {
                        Value::Is(cache) => Ok(cache),
                        _ => Err(shape(&name, "an expression, as in `cache = self.cache`")),
                    });
                    None
                }
                "skip" => {
                    options.skip = match value {
                        Value::List(names) => names,
                        _ => {
                            mistakes.push(shape(&name, "a list of arguments, as in `skip(db)`"));
                            Vec::new()
                        }
                    };
                    None
                }
                "invalidate" => {
                    options.invalidate = mistakes.note(companion(&name, value));
                    None
                }
                "near" | "broadcast" | "undecodable_as_miss" => {
                    let on = mistakes.note(flag(&name, value)).unwrap_or(true);
                    if known == "near" {
                        near = Some(on);
                    }
                    Some(quote!(#on))
                }
                "jitter" => mistakes.note(number(&name, value, 1.0)).map(|part| quote!(#part)),
                "early_refresh" => {
                    mistakes.note(number(&name, value, 1000.0)).map(|beta| quote!(#beta))
                }
                "near_max_bytes" | "max_json_bytes" => {
                    mistakes.note(bytes(&name, value)).map(|bytes| quote!(#bytes))
                }
                _ => mistakes.note(time(&name, value)).map(|millis| {
                    times.push((name.clone(), millis));
                    quote!(::core::time::Duration::from_millis(#millis))
                }),
            };
            options.settings.extend(setting.map(|setting| quote!(.#name(#setting))));
        }
        options.check_together(&seen, &times, near == Some(true), mistakes);
        options
    }

    /// What depends on other options.
    fn check_together(&self, seen: &[Ident], times: &[Time], near: bool, mistakes: &mut Mistakes) {
        let given = |wanted: &str| seen.iter().find(|name| *name == wanted);
        let time = |wanted: &str| times.iter().find(|(name, _)| name == wanted);
        let millis = |wanted: &str| time(wanted).map(|(_, millis)| *millis);
        let missing = |what: &str| syn::Error::new(Span::call_site(), what);
        if given("namespace").is_none() {
            mistakes.push(missing(
                "missing `namespace`: what its keys begin with, as in `namespace = \"user\"`",
            ));
        }
        if given("ttl").is_none() {
            match given("grace") {
                Some(grace) => mistakes.add(
                    grace,
                    "a grace begins when a time to live ends: add one, as in `ttl = \"5m\"`",
                ),
                None => mistakes.push(missing(
                    "missing `ttl`: for how long a value may be served, as in `ttl = \"5m\"`",
                )),
            }
        }
        for (name, _) in times.iter().filter(|(_, millis)| *millis == 0) {
            // Without a grace and a soft timeout is what there is without them.
            if name != "grace" && name != "soft_timeout" {
                mistakes.add(name, format!("`{name}` is zero{}", remedy(&name.to_string())));
            }
        }
        let grace = millis("grace").unwrap_or(0);
        for ttl in ["ttl", "negative_ttl"] {
            if let Some((name, millis)) = time(ttl)
                && millis.saturating_add(grace) > duration::MAX_MILLIS
            {
                mistakes.add(
                    name,
                    format!("`{name}` and `grace` are longer than Redis keeps anything"),
                );
            }
        }
        if let Some((lease, 1..SHORTEST_LEASE)) = time("lease") {
            mistakes.add(lease, "the lease is shorter than 10 ms, less than a few round trips");
        }
        // Defaults to 30 seconds.
        let hard = millis("hard_timeout").unwrap_or(30_000);
        if let Some((soft, millis)) = time("soft_timeout")
            && *millis > hard
        {
            mistakes.add(soft, "the soft timeout is longer than the hard timeout");
        }
        for name in OF_NEAR.iter().filter_map(|name| given(name)).filter(|_| !near) {
            mistakes.add(name, format!("`{name}` has no effect without `near`"));
        }
    }
}

/// What to do about a time that is zero.
fn remedy(name: &str) -> &'static str {
    match name {
        "ttl" => "; what shall not be cached needs no `#[cached]`",
        "negative_ttl" => "; leave it out, and nothing is remembered",
        "near_ttl" => "; leave `near` out instead",
        _ => "",
    }
}

/// What is wrong with a namespace's name, as its builder has it.
fn wrong_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the namespace has no name")
    } else if name.chars().any(char::is_control) {
        Some("the namespace's name has control characters")
    } else if name.ends_with(':') {
        Some("the namespace's name ends in `:`, which is added by itself")
    } else {
        None
    }
}

fn shape(name: &Ident, wanted: &str) -> syn::Error {
    syn::Error::new_spanned(name, format!("`{name}` is {wanted}"))
}

/// The literal that an option is.
fn literal(value: Value) -> Result<Lit, Option<TokenStream>> {
    match value {
        Value::Is(Expr::Lit(ExprLit { lit, .. })) => Ok(lit),
        Value::Is(other) => Err(Some(other.into_token_stream())),
        _ => Err(None),
    }
}

fn text(name: &Ident, value: Value, example: &str) -> syn::Result<LitStr> {
    match literal(value) {
        Ok(Lit::Str(text)) => Ok(text),
        _ => Err(shape(name, &format!("a text, as in `{name} = \"{example}\"`"))),
    }
}

fn time(name: &Ident, value: Value) -> syn::Result<u64> {
    match literal(value) {
        Ok(Lit::Str(text)) => duration::millis(&text.value())
            .map_err(|what| syn::Error::new(text.span(), format!("`{name}`: {what}"))),
        Ok(Lit::Int(number)) => Err(syn::Error::new(
            number.span(),
            format!("`{name}` is a text with a unit, as in `{name} = \"{number}s\"`"),
        )),
        _ => Err(shape(name, &format!("a duration in a text, as in `{name} = \"5m\"`"))),
    }
}

fn flag(name: &Ident, value: Value) -> syn::Result<bool> {
    if let Value::Flag = value {
        return Ok(true);
    }
    match literal(value) {
        Ok(Lit::Bool(yes)) => Ok(yes.value),
        _ => Err(shape(name, &format!("on or off: `{name}`, or `{name} = false`"))),
    }
}

fn number(name: &Ident, value: Value, most: f64) -> syn::Result<f64> {
    let wrong = |place: TokenStream| {
        syn::Error::new_spanned(place, format!("`{name}` is a number from 0 to {most}"))
    };
    let (place, number) = match literal(value) {
        Ok(Lit::Float(number)) => (number.to_token_stream(), number.base10_parse().ok()),
        Ok(Lit::Int(number)) => (number.to_token_stream(), number.base10_parse().ok()),
        Ok(other) => (other.to_token_stream(), None),
        Err(other) => (other.unwrap_or_else(|| name.to_token_stream()), None),
    };
    number.filter(|number| (0.0..=most).contains(number)).ok_or_else(|| wrong(place))
}

fn bytes(name: &Ident, value: Value) -> syn::Result<u64> {
    let Ok(Lit::Int(number)) = literal(value) else {
        return Err(shape(name, &format!("a number of bytes, as in `{name} = 16_777_216`")));
    };
    let bytes = number.base10_parse()?;
    let mistake = match bytes {
        _ if name == "max_json_bytes" && !(1..=LARGEST_JSON).contains(&bytes) => {
            format!("`{name}` is from 1 to {LARGEST_JSON}")
        }
        0 => format!("`{name}` is 0; leave `near` out instead"),
        _ => return Ok(bytes),
    };
    Err(syn::Error::new_spanned(number, mistake))
}

/// The name of the companion that invalidates.
fn companion(name: &Ident, value: Value) -> syn::Result<Option<Ident>> {
    match value {
        Value::Flag => return Ok(None),
        Value::Is(Expr::Path(path)) => {
            if let Some(ident) = path.path.get_ident() {
                return Ok(Some(ident.clone()));
            }
        }
        _ => {}
    }
    Err(shape(name, "alone, or the name of a function, as in `invalidate = forget_user`"))
}
