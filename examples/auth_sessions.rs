//! A data-access object as a service has it: the sessions of logged-in users.
//!
//! Two families of keys, readable by any language:
//!
//! - `token:{token}`: the session as a JSON document, with a time to live;
//! - `token_list:{user_id}`: a list of the user's tokens, so that all of them can be revoked.
//!
//! ```sh
//! cargo run --example auth_sessions                              # the embedded store
//! cargo run --example auth_sessions -- redis://127.0.0.1:6379    # a server
//! ```
//!
//! It prints:
//!
//! ```text
//! logged in on 3 devices
//! token 1 is a session of user 7 on the phone
//! a made-up token: no session
//! token 1 is valid for user 7: true, for user 8: false
//! devices: phone, laptop, tablet
//! revoked the phone: true, once more: false
//! devices: laptop, tablet
//! the laptop's session ran out: devices: tablet
//! saved the tablet's session once more: devices: tablet
//! revoked all: 1 session
//! devices: none
//! a list that is no list: WrongType, and no session is left behind: true
//! ```

use std::time::Duration;

use larder::{CacheClient, Direction, Result};
use serde::{Deserialize, Serialize};

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Session {
    user_id: u64,
    device: String,
}

/// The sessions of logged-in users.
///
/// Every method is safe to call again after an error, whatever its outcome was. No error shows a token:
/// larder prints a key as its first part and a short hash.
///
/// What it does not do: in a Redis Cluster the two keys lie on different nodes, and a transaction over both
/// is refused there.
#[derive(Debug, Clone)]
struct AuthSessions {
    cache: CacheClient,
    ttl: Duration,
}

impl AuthSessions {
    /// Sessions that live for `ttl` after they were saved.
    fn new(cache: CacheClient, ttl: Duration) -> Self {
        Self { cache, ttl }
    }

    /// Saves a session under a token, of which the caller makes sure that nobody can guess it. Saving it again
    /// renews it. One round trip.
    ///
    /// # Errors
    /// After an error the login has failed: the caller hands out no token. If the outcome is unknown, a session
    /// that nobody has the token of may stay until its time is over.
    async fn save(&self, token: &str, session: &Session) -> Result<()> {
        let list = list_key(session.user_id);
        // All or nothing, so that no session exists that `revoke_all` does not find. The token is taken off the
        // list first: saving again does not list it twice.
        let replies = self
            .cache
            .transaction()
            .set_dict(token_key(token), session, self.ttl)
            .remove_from_list(&list, token)
            .push_to_list(&list, token, Direction::Right)
            .set_expiry(&list, self.ttl)
            .run()
            .await?;
        // A transaction does not undo what was done before one of its operations failed (a list key that holds
        // something else): a session that is on no list must not stay.
        if let Some(error) = replies.into_iter().find_map(|reply| reply.err()) {
            self.cache.delete_key(token_key(token)).await?;
            return Err(error);
        }
        Ok(())
    }

    /// Looks a session up. `None` if the token is unknown, revoked or too old. One round trip.
    ///
    /// # Errors
    /// If the store did not answer, nothing is known: refuse the request, do not let it in.
    async fn find(&self, token: &str) -> Result<Option<Session>> {
        self.cache.get_dict(token_key(token)).await
    }

    /// Whether a token is a session of this user. One round trip.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    async fn verify(&self, token: &str, user_id: u64) -> Result<bool> {
        Ok(self.find(token).await?.is_some_and(|session| session.user_id == user_id))
    }

    /// The user's sessions, oldest first. Tokens whose session ran out are taken off the list. Two round trips,
    /// and one more if there is something to take off.
    ///
    /// # Errors
    /// As every call.
    async fn of_user(&self, user_id: u64) -> Result<Vec<Session>> {
        let list = list_key(user_id);
        let tokens = self.cache.get_list(&list).await?;
        let mut lookups = self.cache.pipeline();
        for token in &tokens {
            lookups = lookups.get_value(token_key(token));
        }
        let mut sessions = Vec::new();
        let mut over = self.cache.pipeline();
        for (token, reply) in tokens.iter().zip(lookups.run().await?) {
            match reply?.into_json()? {
                Some(session) => sessions.push(session),
                None => over = over.remove_from_list(&list, token),
            }
        }
        // Tidying up: if it fails, the next call tries again.
        _ = over.run().await;
        Ok(sessions)
    }

    /// Ends one session. Answers whether there was one. Two round trips.
    ///
    /// # Errors
    /// After an error the session may still be valid: tell the user, or try again.
    async fn revoke(&self, token: &str) -> Result<bool> {
        let Some(session) = self.find(token).await? else { return Ok(false) };
        let replies = self
            .cache
            .transaction()
            .delete_key(token_key(token))
            .remove_from_list(list_key(session.user_id), token)
            .run()
            .await?;
        let mut replies = replies.into_iter();
        let deleted = replies.next().transpose()?.map(|reply| reply.into_int()).transpose()?;
        // The session is over even if its token is still listed; `of_user` takes it off.
        Ok(deleted == Some(1))
    }

    /// Ends all sessions of a user, and answers how many there were. Two round trips.
    ///
    /// A login that comes while it runs stays, and stays listed: only the tokens that were read are taken off.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke): all of them are ended or, if the transaction was not applied, none.
    async fn revoke_all(&self, user_id: u64) -> Result<u64> {
        let list = list_key(user_id);
        let tokens = self.cache.get_list(&list).await?;
        if tokens.is_empty() {
            return Ok(0);
        }
        let mut end =
            self.cache.transaction().batch_delete_keys(tokens.iter().map(|token| token_key(token)));
        for token in &tokens {
            end = end.remove_from_list(&list, token);
        }
        let mut replies = end.run().await?.into_iter();
        let deleted = replies.next().transpose()?.map(|reply| reply.into_int()).transpose()?;
        Ok(deleted.unwrap_or(0).unsigned_abs())
    }
}

fn token_key(token: &str) -> String {
    format!("token:{token}")
}

fn list_key(user_id: u64) -> String {
    format!("token_list:{user_id}")
}

/// Tokens of a service are long and random; these are short, to be read.
const TOKENS: [(&str, &str); 3] =
    [("example-1", "phone"), ("example-2", "laptop"), ("example-3", "tablet")];

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let cache = CacheClient::connect(url).await?;
    let sessions = AuthSessions::new(cache.clone(), Duration::from_secs(30 * 60));

    for (token, device) in TOKENS {
        sessions.save(token, &Session { user_id: 7, device: device.into() }).await?;
    }
    println!("logged in on {} devices", TOKENS.len());

    if let Some(session) = sessions.find("example-1").await? {
        println!("token 1 is a session of user {} on the {}", session.user_id, session.device);
    }
    if sessions.find("made-up").await?.is_none() {
        println!("a made-up token: no session");
    }
    let (right, wrong) =
        (sessions.verify("example-1", 7).await?, sessions.verify("example-1", 8).await?);
    println!("token 1 is valid for user 7: {right}, for user 8: {wrong}");
    println!("devices: {}", devices(&sessions).await?);

    let (first, second) =
        (sessions.revoke("example-1").await?, sessions.revoke("example-1").await?);
    println!("revoked the phone: {first}, once more: {second}");
    println!("devices: {}", devices(&sessions).await?);

    // As if half an hour had passed for this one.
    cache.delete_key(token_key("example-2")).await?;
    println!("the laptop's session ran out: devices: {}", devices(&sessions).await?);

    sessions.save("example-3", &Session { user_id: 7, device: "tablet".into() }).await?;
    println!("saved the tablet's session once more: devices: {}", devices(&sessions).await?);

    println!("revoked all: {} session", sessions.revoke_all(7).await?);
    println!("devices: {}", devices(&sessions).await?);

    // Somebody wrote a text where the list should be.
    cache.set_value(list_key(7), "not a list", Duration::from_secs(60)).await?;
    let refused = sessions.save("example-4", &Session { user_id: 7, device: "tv".into() }).await;
    if let Err(error) = refused {
        let gone = sessions.find("example-4").await?.is_none();
        println!(
            "a list that is no list: {:?}, and no session is left behind: {gone}",
            error.kind()
        );
    }
    cache.delete_key(list_key(7)).await?;
    cache.close().await;
    Ok(())
}

async fn devices(sessions: &AuthSessions) -> Result<String> {
    let names: Vec<String> =
        sessions.of_user(7).await?.into_iter().map(|session| session.device).collect();
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}
