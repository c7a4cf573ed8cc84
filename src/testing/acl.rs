//! A user who may do what larder needs and nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use super::resp::{RawConnection, Resp};

/// What larder needs of a server, beside the keys: the rule of `docs/security.md`, which says what each command is for.
pub const LEAST_PRIVILEGE: &str = "-@all \
    +ping +hello +auth +select +client|tracking \
    +get +mget +set +incrby +del +exists +pexpire +persist +pttl \
    +hset +hget +hmget +hgetall +hdel +hincrby \
    +lpush +rpush +lrange +lpop +rpop +lrem \
    +multi +exec +eval +time +scan +wait \
    +asking +cluster|slots +cluster|nodes +readonly +role";

/// What larder needs of sentinels, who have users of their own: the rule of `docs/security.md`.
pub const LEAST_PRIVILEGE_AT_SENTINELS: &str = "resetchannels &+switch-master \
    -@all +ping +hello +auth +subscribe +sentinel|get-master-addr-by-name";

/// Set to anything, the URLs of all test servers are those of a user with these rights, and a server to which such a
/// user was refused anything fails its test.
const ASKED_FOR: &str = "LARDER_TEST_ACL";

const USER: &str = "larder-least";
const PASSWORD: &str = "least";

/// How long a server that is about to be stopped may take to show its log: one that stands still shows none.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether all servers of this process have the user.
pub(super) fn is_asked_for() -> bool {
    std::env::var_os(ASKED_FOR).is_some_and(|value| !value.is_empty())
}

/// The user as arguments of a server that is started, with patterns of keys: `~user:*`.
pub(super) fn arguments(keys: &[String]) -> Vec<String> {
    let start = ["--user", USER, "on", &format!(">{PASSWORD}"), "resetchannels"].map(str::to_owned);
    let rights = LEAST_PRIVILEGE.split_whitespace().map(str::to_owned);
    start.into_iter().chain(keys.iter().cloned()).chain(rights).collect()
}

/// What stands before the host in a URL.
pub(super) fn login() -> String {
    format!("{USER}:{PASSWORD}@")
}

/// What the user was refused: from the log of a server that is about to be stopped. Nothing if it does not answer.
pub(super) fn refusals(address: SocketAddr, password: Option<&str>) -> Vec<String> {
    let look = async {
        let mut connection = RawConnection::connect(address).await?;
        if let Some(password) = password {
            connection.command(&["AUTH", password]).await?;
        }
        connection.command(&["ACL", "LOG", "128"]).await
    };
    // On a thread of its own: it is dropped wherever a test ends, within a runtime or not.
    let looked = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async { tokio::time::timeout(PATIENCE, look).await.ok()?.ok() })
        });
        thread.join().ok().flatten()
    });
    looked.iter().flat_map(Resp::items).filter_map(refused).collect()
}

/// What an entry of the log says, if it is about the user. Newer servers know one command more, which the driver sends
/// with every connection and does not need; Redis 6.2 has no word for it but `client`, which newer ones never say alone.
fn refused(entry: &Resp) -> Option<String> {
    let words: Vec<String> =
        entry.items().iter().map(|item| item.text().unwrap_or_default()).collect();
    let of = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).map(String::as_str)
    };
    let (user, object) = (of("username")?, of("object")?);
    (user == USER && !matches!(object, "client|setinfo" | "client")).then(|| {
        format!("{} {object} ({})", of("reason").unwrap_or(""), of("context").unwrap_or(""))
    })
}
