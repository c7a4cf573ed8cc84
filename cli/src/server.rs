//! Which server a command talks to, and how its password gets here without being seen.

use std::env::{self, VarError};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;

use larder::{CacheClient, CacheConfig, SecretString};

use crate::args::{Args, Command};
use crate::failure::Failure;

const NO_SERVER: &str = "no server is named; give --url redis://HOST:PORT, or set REDIS_URL, or \
     REDIS_HOST and what belongs to it (REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD, REDIS_DB)";

const NOT_KEPT: &str = "what memory:// holds ends with this command; name a server (only the demo runs \
     without one)";

const PASSWORD_SHOWN: &str = "a password on the command line can be seen by every user of this machine; \
     set REDIS_PASSWORD or REDIS_URL, or give --password-file";

/// How much of a password file is read: the wrong file can be an endless one.
const LONGEST_PASSWORD: u64 = 1 << 20;

/// The client of a command. The demo runs on the embedded store unless `--url` names a server: the
/// environment does not count, so that nobody's server is written to by accident. Every other command is
/// about somebody's data.
pub(crate) fn client(args: &Args) -> Result<CacheClient, Failure> {
    let is_demo = matches!(args.command, Command::Demo);
    let cache = match &args.url {
        Some(url) => given(url, args)?,
        None if is_demo => CacheClient::memory(),
        None => from_environment(args)?,
    };
    if is_demo || cache.capabilities().shared {
        Ok(cache)
    } else {
        Err(Failure::Other(NOT_KEPT.to_owned()))
    }
}

/// The URL of a command that makes connections of its own, with the credentials.
pub(crate) fn url(args: &Args) -> Result<SecretString, Failure> {
    match &args.url {
        Some(url) => Ok(given_url(url, args)?.into()),
        None => Ok(config_of_environment(args)?.to_url()?),
    }
}

fn from_environment(args: &Args) -> Result<CacheClient, Failure> {
    Ok(config_of_environment(args)?.client()?)
}

fn config_of_environment(args: &Args) -> Result<CacheConfig, Failure> {
    let mut config = CacheConfig::from_env();
    if !config.says_where() {
        return Err(Failure::Other(NO_SERVER.to_owned()));
    }
    if let Some(password) = password_from_file(args)? {
        config = config.password(password);
    }
    Ok(config)
}

fn given(url: &str, args: &Args) -> Result<CacheClient, Failure> {
    Ok(CacheClient::builder().url(given_url(url, args)?).build()?)
}

fn given_url(url: &str, args: &Args) -> Result<String, Failure> {
    if has_password(url) {
        return Err(Failure::Other(PASSWORD_SHOWN.to_owned()));
    }
    let password = match password_from_file(args)? {
        None => variable("REDIS_PASSWORD")?,
        password => password,
    };
    Ok(match password {
        Some(password) => with_credentials(url, variable("REDIS_USERNAME")?, &password),
        None => url.to_owned(),
    })
}

/// A variable of the environment, unless it is empty. One that cannot be read is a mistake: without it, this
/// would be somebody else's session.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(Failure::Other(format!("{name} from the environment: it is not UTF-8")))
        }
    }
}

/// The first line of the password file; what follows it is a mistake rather than a secret.
fn password_from_file(args: &Args) -> Result<Option<String>, Failure> {
    let Some(path) = &args.password_file else { return Ok(None) };
    let wrong = |what: &str| Failure::Other(format!("--password-file: {what}"));
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST_PASSWORD).read_to_string(&mut text))
        .map_err(|error| wrong(&error.to_string()))?;
    if text.len() as u64 == LONGEST_PASSWORD {
        return Err(wrong("it is longer than a password is"));
    }
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.contains('\n') {
        return Err(wrong("it has to hold one line, the password"));
    }
    Ok(Some(password.to_owned()))
}

/// Whether a URL carries a password, or may do so: what stands before the last `@` can be a password with
/// characters that should have been percent-encoded.
fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    // The path of a socket behind an empty host.
    if rest.starts_with('/') {
        return false;
    }
    let Some((userinfo, _)) = rest.rsplit_once('@') else { return false };
    userinfo.split_once(':').is_some_and(|(_, password)| !password.is_empty())
}

/// The URL with a password, and with a username if it names none itself.
fn with_credentials(url: &str, username: Option<String>, password: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    // Before credentials, an `@` in the path of a socket would look like the end of them.
    let tail = tail.replace('@', "%40");
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = match user.strip_suffix(':').unwrap_or(user) {
        "" => username.as_deref().map(encoded).unwrap_or_default(),
        user => user.to_owned(),
    };
    format!("{scheme}://{user}:{}@{host}{tail}", encoded(password))
}

/// Percent-encoded, whatever it is.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(byte.into());
        } else {
            _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_seen_even_if_it_is_not_encoded() {
        for url in
            ["redis://:pw@h", "redis://u:pw@h:1/0", "redis://:p/w@h", "redis://u:p@w@h", "u:pw@h"]
        {
            assert!(has_password(url), "{url}");
        }
        for url in [
            "redis://h:6379/0",
            "redis://u@h",
            "redis://u:@h",
            "redis+unix:///run/a:b@c",
            "memory://",
        ] {
            assert!(!has_password(url), "{url}");
        }
    }

    #[test]
    fn a_password_goes_into_the_url_encoded() {
        let user = || Some("app".to_owned());
        for (url, want) in [
            ("redis://h:1/2?connections=3", "redis://app:p%40%2Fw@h:1/2?connections=3"),
            ("redis://ada@h", "redis://ada:p%40%2Fw@h"),
            ("redis://ada:@h", "redis://ada:p%40%2Fw@h"),
            ("redis+unix:///run/r.sock", "redis+unix://app:p%40%2Fw@/run/r.sock"),
            ("redis+unix:///run/r@1.sock", "redis+unix://app:p%40%2Fw@/run/r%401.sock"),
        ] {
            assert_eq!(with_credentials(url, user(), "p@/w"), want);
        }
        assert_eq!(with_credentials("redis://h", None, "x"), "redis://:x@h");
    }
}
