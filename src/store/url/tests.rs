//! Tests of the URL parser.

use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;

fn redis(url: &str) -> RedisTarget {
    match Target::parse(url) {
        Ok(Target::Redis(target)) => *target,
        other => panic!("{url}: {other:?}"),
    }
}

fn password(target: &RedisTarget) -> Option<&str> {
    target.password.as_ref().map(ExposeSecret::expose_secret)
}

#[test]
fn addresses_users_and_databases_are_read() {
    let cases = [
        ("redis://localhost", "localhost:6379", None, None, 0),
        ("redis://localhost/", "localhost:6379", None, None, 0),
        ("REDIS://Cache_1.example:1/15", "Cache_1.example:1", None, None, 15),
        ("redis://127.0.0.1:65535/99999", "127.0.0.1:65535", None, None, 99_999),
        ("redis://[::1]:6379/2147483647", "[::1]:6379", None, None, 2_147_483_647),
        ("redis://[fe80::1]", "[fe80::1]:6379", None, None, 0),
        ("redis://:pw@h", "h:6379", None, Some("pw"), 0),
        ("redis://user:pw@h:7/3", "h:7", Some("user"), Some("pw"), 3),
        ("redis://user:@h", "h:6379", Some("user"), Some(""), 0),
        ("redis://:@h", "h:6379", None, None, 0),
        ("redis://@h", "h:6379", None, None, 0),
        ("redis://h?", "h:6379", None, None, 0),
        ("redis+unix:///run/r.sock", "unix:/run/r.sock", None, None, 0),
        ("redis+unix:///run/user@7/r%20s?db=4", "unix:/run/user@7/r s", None, None, 4),
        ("redis+unix://u:p@/r.sock?db=1", "unix:/r.sock", Some("u"), Some("p"), 1),
    ];
    for (url, address, user, pass, db) in cases {
        let target = redis(url);
        assert_eq!(target.address.to_string(), address, "{url}");
        assert_eq!(target.username.as_deref(), user, "{url}");
        assert_eq!(password(&target), pass, "{url}");
        assert_eq!(target.db, db, "{url}");
    }
}

#[test]
fn special_characters_in_a_password_are_read_raw_or_percent_encoded() {
    let cases = [
        ("redis://:%40%3A%2F%3F%23%25@h", "@:/?#%"),
        ("redis://u:%40%3a%2f%3f%23%25@h:1/2", "@:/?#%"),
        ("redis://u:a:b:c@h", "a:b:c"),
        ("redis://:p@ss@h", "p@ss"),
        ("redis://u:a:p@@@h", "a:p@@"),
        ("redis://u:[x]@[::1]:7", "[x]"),
        ("redis://u:%00%0a%20@h", "\0\n "),
        ("redis://u:\u{fc}%C3%BC@h", "\u{fc}\u{fc}"),
        ("redis://u:!$&'()*+,;=-._~|^\\@h", "!$&'()*+,;=-._~|^\\"),
    ];
    for (url, expected) in cases {
        assert_eq!(password(&redis(url)), Some(expected), "{url}");
    }
}

#[test]
fn options_are_read() {
    let target = redis(
        "redis://h/1?deadline_ms=250&connect_timeout_ms=9&max_connections=8&connections=2&max_in_flight=7&max_in_flight_bytes=70000&ping_interval_ms=7&ping_timeout_ms=5&breaker=off&read_from=primary",
    );
    let expected = UrlOptions {
        deadline: Some(Duration::from_millis(250)),
        connect_timeout: Some(Duration::from_millis(9)),
        max_connections: Some(8),
        connections: Some(2),
        max_in_flight: Some(7),
        max_in_flight_bytes: Some(70_000),
        ping_interval: Some(Duration::from_millis(7)),
        ping_timeout: Some(Duration::from_millis(5)),
        breaker: Some(false),
        read_from: Some(ReadPreference::Primary),
    };
    assert_eq!(target.options, expected);
    for (url, expected) in
        [("memory://", None), ("memory:///", None), ("memory://?max_bytes=1048576", Some(1 << 20))]
    {
        match Target::parse(url).unwrap() {
            Target::Memory { max_bytes } => assert_eq!(max_bytes, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_mistake_is_refused_with_its_reason_and_nothing_secret() {
    let cases = [
        ("", "no scheme"),
        ("s3cr3t", "no scheme"),
        ("s3cr3t://h", "scheme is unknown; known are memory://, redis://"),
        ("http://u:s3cr3t@h", "scheme is unknown"),
        ("redis:/h", "no scheme"),
        ("redis://", "host is empty"),
        ("redis:///0", "host is empty"),
        ("redis://u:s3cr3t@", "host is empty"),
        ("redis://u:s3cr3t@:6379", "host is empty"),
        ("redis://h:0", "port is not a whole number from 1 to 65535"),
        ("redis://h:70000", "port is not"),
        ("redis://h:", "port is not"),
        ("redis://h:+1", "port is not"),
        ("redis://u:s3cr3t", "port is not"),
        ("redis://h:1:2", "in brackets"),
        ("redis://::1", "in brackets"),
        ("redis://[::1", "closing bracket"),
        ("redis://[s3cr3t]", "no IPv6 address"),
        ("redis://[fe80::1%25eth0]", "no IPv6 address"),
        ("redis://[::1]6379", "nothing else"),
        ("redis://h1,h2", "no host name has"),
        ("redis://h%41", "no host name has"),
        ("redis://h\u{fc}", "no host name has"),
        ("redis://h/-1", "database (the path) is not a whole number from 0 to 2147483647"),
        ("redis://h/2147483648", "database"),
        ("redis://h/99999999999999999999999", "database"),
        ("redis://h/s3cr3t", "database"),
        ("redis://h/0/", "database"),
        ("redis://h/ ", "space or a control character"),
        ("redis://h\n", "space or a control character"),
        ("redis://u:s3cr3t\0@h", "space or a control character"),
        ("redis://h#insecure", "fragment"),
        ("redis://h/0#s3cr3t", "fragment"),
        ("redis://u:s3c#r3t@h", "percent-encode these"),
        ("redis://u:s3c/r3t@h:1/0", "percent-encode these"),
        ("redis://u:1/s3cr3t@h", "percent-encode these"),
        ("redis://u:s?3cr3t=@h", "percent-encode these"),
        ("redis://u:s3cr3t@v:s3cr3t@h", "more than one `@`"),
        ("redis://u@v:s3cr3t@h", "more than one `@`"),
        ("redis://s3cr3t@h", "username without a password"),
        ("redis://u:s3cr3t%@h", "password has a `%` without two hex digits"),
        ("redis://u:s3cr3t%zz@h", "password has a `%`"),
        ("redis://u:s3cr3t%4@h", "password has a `%`"),
        ("redis://s3%xcr3t:p@h", "username has a `%`"),
        ("redis://u:s3cr3t%ff@h", "password is not UTF-8"),
        ("redis://h?deadline=1", "`deadline` is unknown; known are deadline_ms"),
        ("redis://h?db=1", "`db` is unknown"),
        ("redis://h?s3cr3t=1", "a query option is unknown"),
        ("redis://:s?retpart=1", "a query option is unknown"),
        ("redis://h?s3cr3t", "name=value"),
        ("redis://h?connections=1&", "name=value"),
        ("redis://h?connections=1&connections=1", "`connections` is given twice"),
        ("redis://h?connections=0", "`connections` is not a whole number from 1"),
        ("redis://h?deadline_ms=0", "`deadline_ms` is not"),
        ("redis://h?deadline_ms=s3cr3t", "`deadline_ms` is not"),
        ("redis://h?deadline_ms=1%", "`deadline_ms` has a `%`"),
        ("redis://h?deadline_ms=18446744073709551616", "`deadline_ms` is not"),
        ("redis+unix://tmp/r.sock", "three slashes"),
        ("redis+unix://u:s3cr3t@h/r.sock", "three slashes"),
        ("redis+unix://:s3c/r3t@/r.sock", "percent-encode these"),
        ("redis+unix://", "path of the socket is missing"),
        ("redis+unix:///", "path of the socket is missing"),
        ("redis+unix:///a%00b", "zero byte"),
        ("redis+unix:///a?db=-1", "`db` is not"),
        ("memory://s3cr3t", "no user, host or path"),
        ("memory:///s3cr3t", "no user, host or path"),
        ("memory://?max_bytes=0", "`max_bytes` is not"),
        ("memory://?deadline_ms=1", "`deadline_ms` is unknown; known are max_bytes"),
        ("memory://#s3cr3t", "fragment"),
    ];
    for (url, expected) in cases {
        let error = Target::parse(url).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(shown.contains(expected), "{url}: {shown}");
            for secret in ["s3c", "r3t", "retpart", "insecure", "u:"] {
                let shown = shown.replace("user:", "");
                assert!(!shown.contains(secret), "{url}: {shown}");
            }
        }
    }
}

#[test]
fn a_cluster_is_named_by_some_of_its_nodes() {
    let url = "redis+cluster://u:p@h1,10.0.0.2:7001,[::1]:7002/?connections=6&deadline_ms=5";
    let Ok(Target::Cluster { seeds, target }) = Target::parse(url) else { panic!("{url}") };
    let shown: Vec<String> = seeds.iter().map(Address::to_string).collect();
    assert_eq!(shown, ["h1:6379", "10.0.0.2:7001", "[::1]:7002"]);
    assert_eq!((target.address.to_string().as_str(), target.db), ("h1:6379", 0));
    assert_eq!((target.username.as_deref(), password(&target)), (Some("u"), Some("p")));
    assert_eq!(target.options.connections, Some(6));
    let Ok(Target::Cluster { target, .. }) =
        Target::parse("redis+cluster://h?read_from=prefer-replica")
    else {
        panic!("it is not a cluster")
    };
    assert_eq!(target.options.read_from, Some(ReadPreference::PreferReplica));
    for same in ["redis+cluster://h", "redis+cluster://h/", "redis+cluster://h/0"] {
        assert!(matches!(Target::parse(same), Ok(Target::Cluster { .. })), "{same}");
    }
    for (url, expected) in [
        ("redis+cluster://h1,h2/1", "database 0 alone"),
        ("redis+cluster://h1,,h2", "host is empty"),
        ("redis+cluster://", "host is empty"),
        ("redis+cluster://h1:0,h!2", "port"),
        ("redis+cluster://h1:0,h!2", "no host name"),
        ("redis+cluster://h1,u:s3cr3t@h2", "stand once"),
        ("redis+cluster://h?db=1", "unknown"),
        ("redis+cluster://h?read_from=replica", "one of primary, prefer-replica"),
        ("redis://h?read_from=prefer-replica", "a single server has no replicas"),
        ("redis+unix:///s?read_from=prefer-replica", "a single server has no replicas"),
        ("redis+sentinel://h/m?read_from=prefer-replica", "behind sentinels are not read from"),
        ("redis://h?breaker=maybe", "one of on, off"),
        ("redis://h1,h2", "no host name"),
    ] {
        let error = Target::parse(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(error.to_string().contains(expected), "{url}: {error}");
        assert!(!error.to_string().contains("s3cr3t"));
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_url_with_tls_names_files_and_switches_nothing_off() {
    let target = redis("rediss://u:p@h:1/2?ca=/etc/a%20b.pem&cert=/c.pem&key=/k.pem&deadline_ms=5");
    assert_eq!((target.address.to_string().as_str(), target.db), ("h:1", 2));
    let shown = format!("{:?}", target.tls);
    assert!(shown.contains("own_roots: 1") && shown.contains("identity: true"), "{shown}");
    assert!(redis("rediss://h").tls.is_some() && redis("redis://h").tls.is_none());
    let target = redis("rediss+sentinel://u:p@h1,h2:7/my%20primary/4?ca=/a.pem&connections=1");
    assert_eq!(target.address.to_string(), "sentinels h1:26379,h2:7/my primary");
    assert_eq!((target.db, target.options.connections), (4, Some(1)));
    assert!(target.tls.is_some() && redis("redis+sentinel://h/m").tls.is_none());
    for url in ["rediss://h", "rediss+sentinel://h1,h2/m"] {
        assert!(
            !redis(url).is_secured(),
            "nothing is dialled before the settings were read: {url}"
        );
    }
    for (url, expected) in [
        ("rediss://h?cert=/c.pem", "go together"),
        ("rediss://h?insecure=true", "unknown"),
        ("rediss://h#insecure", "fragment"),
        ("redis://h?ca=/c.pem", "unknown"),
        ("rediss+sentinel://h/m?key=/k.pem", "go together"),
        ("rediss+sentinel://h/m?insecure=true", "unknown"),
        ("rediss+sentinel://h/m#insecure", "fragment"),
        ("redis+sentinel://h/m?ca=/c.pem", "unknown"),
    ] {
        let error = Target::parse(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }
}

#[test]
fn sentinels_are_read_with_the_name_of_their_primary() {
    let target = redis("redis+sentinel://u:p@h1,[::1]:7,h3:26380/my%20primary/4?connections=1");
    assert_eq!(target.address.to_string(), "sentinels h1:26379,[::1]:7,h3:26380/my primary");
    assert_eq!((target.username.as_deref(), password(&target)), (Some("u"), Some("p")));
    assert_eq!((target.db, target.options.connections), (4, Some(1)));
    let Address::Sentinels(sentinels) = &target.address else { unreachable!() };
    assert!(sentinels.targets.iter().all(|one| one.username.is_none() && one.password.is_none()));
    for (url, expected) in [
        ("redis+sentinel://h1,h2", "name of the primary"),
        ("redis+sentinel://h1,,h2/m", "the host is empty"),
        ("redis+sentinel://h1:0,h2:x/m", "the port"),
        ("redis+sentinel://h1/m/x", "the database"),
        ("redis+sentinel://h1/m/1/2", "nothing else"),
        ("redis+sentinel://h1/m?no=1", "unknown"),
    ] {
        let error = Target::parse(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let url = "redis://u:%zz@bad!host:0/-1?no=1&connections=x#f";
    let shown = Target::parse(url).unwrap_err().to_string();
    for part in ["password", "host name", "port", "database", "query option", "connections", "#"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn debug_hides_who_we_are() {
    let target = Target::parse("redis://the-user:the-password@some-host/3").unwrap();
    let shown = format!("{target:?}");
    assert!(!shown.contains("the-user") && !shown.contains("the-password"), "{shown}");
    assert!(shown.contains("some-host") && shown.contains("***"), "{shown}");
}

#[test]
fn a_masked_url_keeps_everything_but_the_credentials() {
    for (url, expected) in [
        ("redis://h:1/2?connections=1", "redis://h:1/2?connections=1"),
        ("redis://us:p@s:@h/1", "redis://***:***@h/1"),
        ("redis://:pw@h", "redis://:***@h"),
        ("redis://us:@h", "redis://***:@h"),
        ("redis+unix:///a@b", "redis+unix:///a@b"),
        ("redis+unix://us:pw@/a?db=1", "redis+unix://***:***@/a?db=1"),
        ("memory://?max_bytes=5", "memory://?max_bytes=5"),
    ] {
        assert_eq!(masked(url), expected);
    }
}

proptest! {
    #[test]
    fn any_username_and_password_survive_building_and_parsing(
        user in any::<String>(), pass in any::<String>(), db in 0..=i32::MAX as u64, v6: bool,
    ) {
        let host = if v6 { "2001:db8::1" } else { "cache.example" };
        let address = Address::Tcp { host: host.to_owned(), port: 7 };
        let url = build(&address, Some(&user), Some(&pass), db);
        let target = redis(url.expose_secret());
        prop_assert_eq!(&target.address, &address);
        prop_assert_eq!(target.username.clone().unwrap_or_default(), user);
        prop_assert_eq!(password(&target).unwrap_or_default(), pass);
        prop_assert_eq!(target.db, db as i64);
    }

    #[test]
    fn any_password_survives_beside_any_socket_path(pass in any::<String>(), path in "/[^\0]{1,40}") {
        let address = Address::Unix(path.into());
        let url = build(&address, None, Some(&pass), 1);
        let target = redis(url.expose_secret());
        prop_assert_eq!(&target.address, &address);
        prop_assert_eq!(password(&target).unwrap_or_default(), pass);
    }

    #[test]
    fn no_text_panics_the_parser_or_comes_back_in_an_error(text in any::<String>()) {
        for scheme in ["redis://", "redis+unix://", "memory://", ""] {
            // Letters that no message has.
            let url = format!("{scheme}{text}\u{1F511}{text}");
            if let Err(error) = Target::parse(&url) {
                let echoed = error.to_string().contains('\u{1F511}');
                prop_assert!(!echoed);
            }
        }
    }

    #[test]
    fn a_raw_password_is_parsed_right_or_refused(pass in "[a-z@:/?#%!]{1,12}") {
        let url = format!("redis://user:{pass}@host:6379/0");
        match Target::parse(&url) {
            // Percent-decoding aside, what was accepted is what was meant.
            Ok(Target::Redis(target)) if !pass.contains('%') => {
                prop_assert_eq!(password(&target), Some(pass.as_str()));
                prop_assert_eq!(target.address.to_string(), "host:6379");
            }
            Ok(Target::Redis(target)) => prop_assert_eq!(target.address.to_string(), "host:6379"),
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Config),
        }
    }
}

/// A URL of a kilobyte of empty options was an error of seventy.
#[test]
fn a_url_with_thousands_of_mistakes_is_an_error_that_can_be_read() {
    let url = format!("memory://?{}", "&".repeat(10_000));
    let error = Target::parse(&url).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(text.len() < 2_000 && text.contains("more mistakes"), "{text}");
}
