//! The key's format: parts joined with `:`, each an argument in braces or plain text.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Expr, Ident, LitStr};

/// A part of a key.
pub(crate) enum Part {
    /// The same in every key.
    Text(String),
    /// An argument, a field of one or what a method of one gives.
    Given { root: Ident, part: Box<Expr> },
}

/// The parts of a key's format, or what is wrong with it.
pub(crate) fn parts(format: &LitStr) -> syn::Result<Vec<Part>> {
    let error = |what: String| syn::Error::new(format.span(), what);
    let text = format.value();
    let (mut parts, mut plain, mut given) = (Vec::new(), String::new(), None);
    let mut rest = text.chars().peekable();
    loop {
        match rest.next() {
            ended @ (Some(':') | None) => {
                match (given.take(), std::mem::take(&mut plain)) {
                    (Some(part), text) if text.is_empty() => parts.push(part),
                    (None, text) if !text.is_empty() => parts.push(Part::Text(text)),
                    (None, _) => {
                        return Err(error(format!(
                            "the key `{text}` has an empty part; parts are joined with one `:`"
                        )));
                    }
                    (Some(_), _) => return Err(error(mixed(&text))),
                }
                if ended.is_none() {
                    return Ok(parts);
                }
            }
            Some('{') if rest.next_if_eq(&'{').is_some() => plain.push('{'),
            Some('}') if rest.next_if_eq(&'}').is_some() => plain.push('}'),
            Some('{') => {
                let mut inside = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(one) => inside.push(one),
                        None => {
                            return Err(error(format!("the key `{text}` has a `{{` without `}}`")));
                        }
                    }
                }
                if given.replace(placeholder(&inside, format)?).is_some() {
                    return Err(error(mixed(&text)));
                }
            }
            Some('}') => return Err(error(format!("the key `{text}` has a `}}` without `{{`"))),
            Some(one) => plain.push(one),
        }
    }
}

fn mixed(text: &str) -> String {
    format!(
        "a part of the key `{text}` is more than one argument or one text, so that different \
         arguments could give one key; put a `:` between them"
    )
}

/// What stands in braces.
fn placeholder(inside: &str, format: &LitStr) -> syn::Result<Part> {
    let error = |what: String| syn::Error::new(format.span(), what);
    let inside = inside.trim();
    if inside.is_empty() || inside.starts_with(|one: char| one.is_ascii_digit()) {
        return Err(error(format!(
            "`{{{inside}}}` names no argument; arguments go by their names, as in `{{id}}`"
        )));
    }
    if inside.replace("::", "").contains(':') {
        return Err(error(format!(
            "`{{{inside}}}` has a format; parts of keys have none, only `KeyParts` says how they are written"
        )));
    }
    let parsed: syn::Result<Expr> = LitStr::new(inside, format.span()).parse();
    if let Ok(part) = parsed
        && let Some(root) = root(&part).cloned()
    {
        return Ok(Part::Given { root, part: Box::new(part) });
    }
    Err(error(format!(
        "`{{{inside}}}` is no argument, field of one or method of one, as `{{id}}`, `{{user.id}}` \
         and `{{user.id()}}` are"
    )))
}

/// The argument that an expression begins with.
fn root(expression: &Expr) -> Option<&Ident> {
    match expression {
        Expr::Path(path) if path.qself.is_none() => path.path.get_ident(),
        Expr::Field(field) => root(&field.base),
        Expr::MethodCall(call) => root(&call.receiver),
        Expr::Index(index) => root(&index.expr),
        Expr::Unary(unary) if matches!(unary.op, syn::UnOp::Deref(_)) => root(&unary.expr),
        Expr::Reference(reference) => root(&reference.expr),
        Expr::Paren(inner) => root(&inner.expr),
        _ => None,
    }
}

/// Code that writes the parts with a `KeyWriter` named `key`.
pub(crate) fn written(parts: &[Part], key: &Ident) -> TokenStream {
    let each = parts.iter().map(|part| match part {
        Part::Text(text) => quote!(::larder::KeyWriter::part(#key, #text.as_bytes());),
        Part::Given { part, .. } => quote!(::larder::KeyParts::write(&#part, #key);),
    });
    quote!(#(#each)*)
}

#[cfg(test)]
mod tests {
    use proc_macro2::Span;

    use super::*;

    fn shown(format: &str) -> Result<Vec<String>, String> {
        let parts = parts(&LitStr::new(format, Span::call_site())).map_err(|e| e.to_string())?;
        Ok(parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => format!("text {text}"),
                Part::Given { root, .. } => format!("argument {root}"),
            })
            .collect())
    }

    #[test]
    fn a_format_is_its_parts() {
        for (format, wanted) in [
            ("{id}", &["argument id"][..]),
            ("{tenant}:{id}", &["argument tenant", "argument id"]),
            ("{id}:profile", &["argument id", "text profile"]),
            (
                "{user.id}:{user.name()}:{self.tenant}",
                &["argument user", "argument user", "argument self"],
            ),
            ("{ids[0]}:{pair.0}:{*at}", &["argument ids", "argument pair", "argument at"]),
            ("{{t}}", &["text {t}"]),
            ("all", &["text all"]),
        ] {
            assert_eq!(shown(format).unwrap(), wanted, "{format}");
        }
    }

    #[test]
    fn a_format_that_is_wrong_says_what_is() {
        for (format, wanted) in [
            ("", "an empty part"),
            ("{id}:", "an empty part"),
            ("a::b", "an empty part"),
            ("{a}{b}", "more than one"),
            ("{a}-{b}", "more than one"),
            ("v{a}", "more than one"),
            ("{a}v", "more than one"),
            ("{}", "names no argument"),
            ("{0}", "names no argument"),
            ("{id:?}", "has a format"),
            ("{id", "without `}`"),
            ("id}", "without `{`"),
            ("{f(id)}", "is no argument"),
            ("{Self::X}", "is no argument"),
            ("{1 + id}", "names no argument"),
            ("{id +}", "is no argument"),
        ] {
            let error = shown(format).unwrap_err();
            assert!(error.contains(wanted), "{format}: {error}");
        }
    }
}
