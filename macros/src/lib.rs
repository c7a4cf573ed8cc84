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

/// Caches what an async function returns: a call reads through the cache, and the body runs only if there is nothing,
/// once for all who ask meanwhile, in this process and in others.
///
/// ```
/// use larder::cached;
/// # #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)] pub struct User { id: u64, name: String }
/// # pub struct Db;
/// # #[derive(Clone, Debug)] pub enum DbError { NoSuchUser, Cache(larder::Error) }
/// # impl std::fmt::Display for DbError {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("the database failed") }
/// # }
/// # impl std::error::Error for DbError {}
/// # impl Db {
/// #     async fn select(&self, id: u64) -> Result<User, DbError> {
/// #         if id == 0 { return Err(DbError::NoSuchUser) }
/// #         Ok(User { id, name: "Ada".into() })
/// #     }
/// # }
///
/// #[cached(namespace = "user", key = "{id}", ttl = "5m", grace = "1m", near, invalidate)]
/// async fn find_user(db: &Db, id: u64) -> Result<User, DbError> {
///     db.select(id).await
/// }
///
/// // So that the function can tell of a cache that failed.
/// impl From<larder::Error> for DbError {
///     fn from(error: larder::Error) -> Self {
///         DbError::Cache(error)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), DbError> {
/// # let db = Db;
/// larder::init("memory://").await?; // or redis://127.0.0.1:6379
/// let user = find_user(&db, 7).await?; // user:7 = {"id":7,"name":"Ada"}
/// let same = find_user(&db, 7).await?; // the body did not run
/// # assert_eq!((user.id, same.id), (7, 7));
/// find_user_invalidate(7).await?; // after a change of user 7
/// # assert_eq!(larder::cache().get_value("user:7").await?, None);
/// # Ok(()) }
/// ```
///
/// It is `get_or_load` of a `larder::Namespace`, made once for each client: what is not said here is said there.
///
/// # Options
///
/// In any order. Durations are texts like `"250ms"`, `"300s"`, `"5m"`, `"1h30m"`, with the units ms, s, m, h and d,
/// and are checked by the compiler.
///
/// | option | meaning |
/// |---|---|
/// | `namespace = "user"` | what the keys begin with; required |
/// | `key = "{id}"` | the rest of the key, from the arguments; required |
/// | `ttl = "5m"` | how long a value is fresh; required |
/// | `cache = self.cache` | the `CacheClient`: an expression over the arguments; required of methods. Defaults to `larder::cache()`, the client of the process |
/// | `grace = "1m"` | for how long after that a stale value is served if the body fails, or while one caller runs it. Defaults to none |
/// | `near` | keeps decoded values in this process. Defaults to off |
/// | `invalidate`, `invalidate = forget_user` | also makes the function that invalidates. Defaults to none |
/// | `skip(db)` | arguments that do not tell values apart; only needed if the key names no argument |
/// | `negative_ttl`, `jitter`, `early_refresh`, `soft_timeout`, `hard_timeout`, `lease`, `near_ttl`, `near_max_bytes`, `broadcast`, `undecodable_as_miss`, `max_json_bytes` | as the methods of `larder::NamespaceBuilder` of these names, with their defaults |
///
/// # Keys
///
/// The format is a list of parts with `:` between them. A part is an argument in braces (`{id}`), a field
/// (`{user.id}`, `{self.tenant}`) or a method of one (`{user.id()}`), or plain text; `{{` and `}}` are braces. A part
/// is written as `larder::KeyParts` of its type says, and is escaped, so that different arguments never meet:
/// `"{tenant}:{id}"` of `("a", "b:c")` is not that of `("a:b", "c")`.
///
/// `namespace = "user", key = "{tenant}:{id}"` are the keys of `cache.namespace::<(&str, u64), User>("user")`: both
/// can be used beside each other. Arguments that tell values apart and are not in the key are a bug that nothing finds.
/// A part that is empty when the function is called is `ErrorKind::InvalidInput`.
///
/// # What it returns
///
/// `Result<T, E>`, `Result<Option<T>, E>`, `T` or `Option<T>`; each with an `Arc<T>` in place of `T` as well, and then
/// a hit of the near cache copies nothing. `T` is `Serialize`, `DeserializeOwned`, `Clone`, `Send`, `Sync` and
/// `'static`. `None` is remembered only with a `negative_ttl`, and errors never are.
///
/// `E` needs `From<larder::Error>`, and has to be an error as `std::error::Error` is, or `anyhow::Error`. It comes from
/// two sides:
///
/// - **The body's own error** comes back as itself, to all who waited for it, if `E` is `Clone`. It is shared, so
///   that otherwise it comes as a `larder::Error` that was converted, of the kind `Load`, of which
///   `loader_error::<E>()` is the body's.
/// - **The cache's**: a body that panics, that takes longer than `hard_timeout` or that calls itself with the same
///   key; a value of another type in the cache; a client that is closed or was never set up. A store that fails is
///   none: the body answers.
///
/// **A function without a `Result` cannot fail:** whatever is wrong with the cache, its body runs and answers, and
/// nothing is stored. After a hard timeout that is a second run, without a limit.
///
/// # The body
///
/// It is a loader: it may not run at all, and runs a second time if the key is invalidated while it runs. So arguments
/// are references or are cloned for each run, and are `Send` and `Sync`; `&mut` arguments and `self` by value are
/// errors. It ends when its caller ends; then another caller who waited runs its own. In the grace one caller at a
/// time waits for the body and the others get the stale value at once; for refreshes in the background, give a
/// `Namespace` a `loader`. It must not call its own function with the same key.
///
/// # Invalidation
///
/// `invalidate` makes `find_user_invalidate`, and `invalidate = forget_user` makes `forget_user`: with those arguments
/// of the function that its key and its cache need, of the same visibility, and with what `Namespace::invalidate`
/// returns, a `larder::Result<()>`. It cannot be used in an `impl` of a trait, which takes no further functions: there,
/// invalidate by a namespace of the same name.
///
/// # Cost
///
/// A call beyond `get_or_load` of a namespace costs a look for its client and some reference counts.
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
    let cached = Cached::check(&function, &options, &mut mistakes);
    match (mistakes.into_errors(), cached) {
        (None, Some(cached)) => cached.expand().into(),
        // With the function as it is: who calls it shall not get errors for that as well.
        (errors, _) => quote!(#errors #function).into(),
    }
}
