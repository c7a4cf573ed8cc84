//! The function under the attribute: what of it can be cached.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::{
    Attribute, FnArg, GenericArgument, Ident, Pat, PathArguments, PathSegment, ReceiverKind,
    ReturnType, Signature, Token, Type, Visibility,
};

use crate::mistakes::Mistakes;

/// A function. Its body is kept as it is.
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) sig: Signature,
    pub(crate) body: Group,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let begins = input.span();
        let no_function = || syn::Error::new(begins, "`#[cached]` goes on an `async fn`");
        let vis = input.parse()?;
        let sig: Signature = input.parse().map_err(|_| no_function())?;
        if input.peek(Token![;]) {
            return Err(
                input.error("`#[cached]` needs the function's body; put it on the implementation")
            );
        }
        match input.parse()? {
            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => {
                Ok(Self { attrs, vis, sig, body })
            }
            _ => Err(no_function()),
        }
    }
}

impl ToTokens for Function {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        let Self { attrs, vis, sig, body } = self;
        tokens.extend(quote!(#(#attrs)* #vis #sig #body));
    }
}

/// An argument of the function, other than `self`.
pub(crate) struct Argument {
    pub(crate) name: Ident,
    pub(crate) mutability: Option<Token![mut]>,
    pub(crate) ty: Type,
}

/// What the function returns.
pub(crate) struct Returned {
    /// All of it.
    pub(crate) ty: Type,
    /// What is cached of it.
    pub(crate) value: Type,
    /// Its error, and whether that is written.
    pub(crate) error: Option<Failure>,
    /// Between what is cached and what is returned, as the library names it.
    pub(crate) shape: TokenStream,
}

pub(crate) enum Failure {
    Written(Box<Type>),
    /// Of a `Result` whose name says what its error is.
    Implied,
}

impl Function {
    /// Whether it is a method.
    pub(crate) fn is_method(&self) -> bool {
        self.sig.receiver().is_some()
    }

    /// Notes what of it cannot be cached, beside its arguments and what it returns.
    pub(crate) fn check(&self, mistakes: &mut Mistakes) {
        if self.sig.asyncness.is_none() {
            mistakes.add(self.sig.fn_token, "`#[cached]` goes on an `async fn`: add `async`");
        }
        if let Some(receiver) = self.sig.receiver()
            && !matches!(receiver.kind, ReceiverKind::Reference(_, _, None))
        {
            mistakes.add(
                receiver,
                "a `#[cached]` method takes `&self`: its body may run twice, or not at all",
            );
        }
    }

    /// Its arguments by name.
    pub(crate) fn arguments(&self, mistakes: &mut Mistakes) -> Vec<Argument> {
        let typed = self.sig.inputs.iter().filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed),
            FnArg::Receiver(_) => None,
        });
        let mut arguments = Vec::new();
        for input in typed {
            match &*input.pat {
                Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => {
                    if let Type::Reference(to) = &*input.ty
                        && to.mutability.is_some()
                    {
                        mistakes.add(
                            &input.ty,
                            "an argument of a `#[cached]` function cannot be `&mut`: its body may \
                             run twice, or not at all",
                        );
                    }
                    arguments.push(Argument {
                        name: pat.ident.clone(),
                        mutability: pat.mutability,
                        ty: (*input.ty).clone(),
                    });
                }
                pattern => mistakes.add(
                    pattern,
                    "an argument of a `#[cached]` function has a name; take it apart in the body",
                ),
            }
        }
        arguments
    }

    /// The signature with plain names: what is `mut` is so in the body.
    pub(crate) fn outer_signature(&self) -> Signature {
        let mut sig = self.sig.clone();
        for input in &mut sig.inputs {
            if let FnArg::Typed(typed) = input
                && let Pat::Ident(pat) = &mut *typed.pat
            {
                pat.mutability = None;
            }
        }
        sig
    }

    /// What it returns.
    pub(crate) fn returned(&self, mistakes: &mut Mistakes) -> Option<Returned> {
        let ReturnType::Type(_, ty) = &self.sig.output else {
            mistakes
                .add(&self.sig.ident, "this returns nothing, so that there is nothing to cache");
            return None;
        };
        let ty = bare(ty);
        let (value, error) = match last(ty) {
            Some(result) if result.ident == "Result" => {
                let mut types = types(result);
                let Some(value) = types.next() else {
                    mistakes.add(
                        ty,
                        "which value is in this `Result`? write it, as in `Result<User, Error>`",
                    );
                    return None;
                };
                let error = types
                    .next()
                    .map_or(Failure::Implied, |e| Failure::Written(Box::new(e.clone())));
                (value, Some(error))
            }
            _ => (ty, None),
        };
        let value = bare(value);
        let (value, maybe) = match inside(value, "Option") {
            Some(value) => (bare(value), true),
            None => (value, false),
        };
        let (value, shared) = match inside(value, "Arc") {
            Some(value) => (bare(value), true),
            None => (value, false),
        };
        let wrong = match value {
            Type::Tuple(tuple) if tuple.elems.is_empty() => "`()` is no value to be cached",
            Type::Reference(_) => "a cached value is owned; return a `T` or an `Arc<T>`",
            Type::ImplTrait(_) => "a cached value has a type with a name, not `impl Trait`",
            _ if inside(value, "Option").is_some() => {
                "an `Option` in an `Option` cannot be told apart from one: both are `null`"
            }
            _ if inside(value, "Loaded").is_some() => {
                "`Loaded` is for loaders; return the value, or use `get_or_load` of a `Namespace`"
            }
            _ => "",
        };
        if !wrong.is_empty() {
            mistakes.add(value, wrong);
            return None;
        }
        let shape = if shared {
            quote!(::larder::__cached::Shared)
        } else {
            quote!(::larder::__cached::Owned)
        };
        let shape = if maybe { quote!(::larder::__cached::Maybe(#shape)) } else { shape };
        Some(Returned { ty: ty.clone(), value: value.clone(), error, shape })
    }
}

/// A type without what only groups it.
fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(inner) => bare(&inner.elem),
        Type::Paren(inner) => bare(&inner.elem),
        ty => ty,
    }
}

/// The last name of a type.
fn last(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(path) if path.qself.is_none() => path.path.segments.last(),
        _ => None,
    }
}

/// The types in angle brackets.
fn types(segment: &PathSegment) -> impl Iterator<Item = &Type> {
    let arguments = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => Some(arguments.args.iter()),
        _ => None,
    };
    arguments.into_iter().flatten().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// The `T` of a type like `Option<T>`.
fn inside<'t>(ty: &'t Type, outer: &str) -> Option<&'t Type> {
    last(ty).filter(|name| name.ident == outer).and_then(|name| types(name).next())
}

/// Whether a name stands somewhere in code.
pub(crate) fn mentions(code: impl ToTokens, name: &Ident) -> bool {
    code.into_token_stream().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == *name,
        TokenTree::Group(group) => mentions(group.stream(), name),
        _ => false,
    })
}
