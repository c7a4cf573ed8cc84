//! Tests of the settings.

use std::ffi::OsString;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// A directory of its own for the files of a test.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("larder-config-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn from_env(pairs: &[(&str, &str)]) -> CacheConfig {
    CacheConfig::collect(sources::load(env(pairs), None, None))
}

fn from_toml(content: &str) -> CacheConfig {
    let files = Files::new();
    let path = files.write("cache.toml", content);
    CacheConfig::collect(sources::load(env(&[]), None, Some(&path)))
}

fn url(config: &CacheConfig) -> String {
    config.to_url().unwrap().expose_secret().to_owned()
}

/// What `config` is refused with; nothing that is printed of it may contain `s3cr3t`.
fn refusal(config: &CacheConfig) -> String {
    let error = config.to_url().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let shown = error.to_string();
    let everything = format!("{shown} {error:?} {config:?}");
    assert!(!everything.contains("s3cr3t"), "{everything}");
    shown
}

#[test]
fn without_a_setting_the_server_is_the_local_one() {
    assert_eq!(url(&CacheConfig::new()), "redis://127.0.0.1:6379/0");
    assert_eq!(url(&from_env(&[("PATH", "/bin"), ("REDIS_TLS", "1")])), "redis://127.0.0.1:6379/0");
}

#[test]
fn the_environment_is_read() {
    let config = from_env(&[
        ("REDIS_HOST", "cache.example"),
        ("REDIS_PORT", "7000"),
        ("REDIS_USERNAME", "app"),
        ("REDIS_PASSWORD", "p@ss:/?#%"),
        ("REDIS_DB", "3"),
        ("REDIS_MAX_CONNECTIONS", "9"),
        ("REDIS_MAX_IN_FLIGHT", "1000"),
        ("REDIS_MAX_IN_FLIGHT_BYTES", "65536"),
        ("REDIS_DEADLINE_MS", "250"),
        ("REDIS_PING_INTERVAL_MS", "400"),
        ("REDIS_PING_TIMEOUT_MS", "300"),
    ]);
    assert_eq!(url(&config), "redis://app:p%40ss%3A%2F%3F%23%25@cache.example:7000/3");
    assert_eq!(config.display_url().unwrap(), "redis://***:***@cache.example:7000/3");
    let resolved = config.resolve().unwrap();
    assert_eq!(resolved.max_connections, Some(9));
    assert_eq!((resolved.max_in_flight, resolved.max_in_flight_bytes), (Some(1000), Some(1 << 16)));
    assert_eq!(resolved.deadline, Some(Duration::from_millis(250)));
    assert_eq!(resolved.ping_interval, Some(Duration::from_millis(400)));
    assert_eq!(resolved.ping_timeout, Some(Duration::from_millis(300)));
    let in_code = config.ping_timeout(Duration::from_millis(7)).resolve().unwrap();
    assert_eq!(in_code.ping_timeout, Some(Duration::from_millis(7)));
    let whole = from_env(&[("REDIS_URL", "redis://:pw@h?connections=2")]);
    assert_eq!(url(&whole), "redis://:pw@h?connections=2");
    for host in ["::1", "[::1]"] {
        assert_eq!(url(&from_env(&[("REDIS_HOST", host)])), "redis://[::1]:6379/0");
    }
}

#[cfg(feature = "tls")]
#[test]
fn sentinels_over_tls_are_named_by_a_url_from_any_source() {
    let whole = "rediss+sentinel://app:pw@h1,h2:7000/name/2?ca=/etc/ca.pem";
    for config in [
        from_env(&[("REDIS_URL", whole)]),
        from_toml(&format!("[redis]\nurl = \"{whole}\"")),
        CacheConfig::new().url(whole),
    ] {
        assert_eq!(url(&config), whole);
        let shown = "rediss+sentinel://***:***@h1,h2:7000/name/2?ca=/etc/ca.pem";
        assert_eq!(config.display_url().unwrap(), shown);
    }
}

#[test]
fn code_goes_over_the_environment_over_dotenv_over_toml_over_the_defaults() {
    let files = Files::new();
    let toml = files.write(
        "cache.toml",
        "[redis]\nhost = 'toml'\nport = 1\ndb = 1\nusername = 'toml'\npassword = 'toml'\n\
         deadline_ms = 7\n[other]\nkey = 1\n",
    );
    let dotenv = files
        .write(".env", "# comment\nREDIS_HOST=dotenv\nREDIS_PORT=2\nexport REDIS_DB=2\nOTHER=x\n");
    let vars = env(&[("REDIS_HOST", "environment"), ("REDIS_PORT", "3")]);
    let load = |vars, dotenv, toml| CacheConfig::collect(sources::load(vars, dotenv, toml));
    let all = || load(vars.clone(), Some(dotenv.as_path()), Some(toml.as_path()));
    assert_eq!(url(&all().host("code")), "redis://toml:toml@code:3/2");
    assert_eq!(url(&all()), "redis://toml:toml@environment:3/2");
    assert_eq!(url(&load(env(&[]), Some(&dotenv), Some(&toml))), "redis://toml:toml@dotenv:2/2");
    assert_eq!(url(&load(env(&[]), None, Some(&toml))), "redis://toml:toml@toml:1/1");
    assert_eq!(all().resolve().unwrap().deadline, Some(Duration::from_millis(7)));
    let micros = Duration::from_micros(1500);
    assert_eq!(all().deadline(micros).resolve().unwrap().deadline, Some(micros));
}

#[test]
fn a_dotenv_file_that_is_missing_or_a_directory_is_no_mistake_and_changes_no_environment() {
    let files = Files::new();
    let load = |path: PathBuf| CacheConfig::collect(sources::load(env(&[]), Some(&path), None));
    assert_eq!(url(&load(files.0.join("missing"))), "redis://127.0.0.1:6379/0");
    assert_eq!(url(&load(files.0.clone())), "redis://127.0.0.1:6379/0");
    let path = files.write(".env", "\u{feff}REDIS_HOST='only-in-dotenv'\n");
    assert_eq!(url(&load(path)), "redis://only-in-dotenv:6379/0");
    assert_ne!(std::env::var("REDIS_HOST").as_deref(), Ok("only-in-dotenv"));
}

#[test]
fn empty_variables_and_service_links_count_as_not_set() {
    let config = from_env(&[
        ("REDIS_URL", "redis://h"),
        ("REDIS_PASSWORD", ""),
        ("REDIS_HOST", ""),
        ("REDIS_PORT", "tcp://10.0.0.7:6379"),
    ]);
    assert_eq!(url(&config), "redis://h");
}

#[test]
fn a_url_beside_its_parts_is_a_conflict_that_names_both() {
    let shown = refusal(&from_env(&[
        ("REDIS_URL", "redis://u:s3cr3t@h"),
        ("REDIS_HOST", "h"),
        ("REDIS_PASSWORD", "s3cr3t"),
    ]));
    assert_eq!(
        shown,
        "REDIS_URL from the environment already says what REDIS_HOST from the environment, \
         REDIS_PASSWORD from the environment says; keep the URL or the parts"
    );
    let shown = refusal(&from_env(&[("REDIS_DB", "1")]).url("redis://u:s3cr3t@h"));
    assert!(shown.contains("`url` set in code") && shown.contains("REDIS_DB"), "{shown}");
}

#[test]
fn all_mistakes_of_all_sources_come_in_one_error() {
    let files = Files::new();
    let toml = files.write("cache.toml", "[redis]\npasword = 's3cr3t'\nhost = 5\nport = true\n");
    let dotenv = files.write(".env", "REDIS_DB=-1\nREDIS_PASSWORD=s3cr3t s3cr3t\n");
    let vars = env(&[("REDIS_MAX_CONNECTIONS", "0"), ("REDIS_USERNAME", "s3cr3t")]);
    let config = CacheConfig::collect(sources::load(vars, Some(&dotenv), Some(&toml)));
    let shown = refusal(&config.deadline(Duration::ZERO));
    let (toml, dotenv) = (toml.display(), dotenv.display());
    for part in [
        format!("`redis.pasword` from {toml}: the key is unknown; known are url, host"),
        format!("`redis.host` from {toml}: it is not text; put it in quotes"),
        format!("`redis.port` from {toml}: it is not a number"),
        format!("{dotenv}: entry 2 is not of the form NAME=value"),
        format!("REDIS_DB from {dotenv}: `-1` is not a whole number from 0 to 2147483647"),
        "REDIS_MAX_CONNECTIONS from the environment: `0` is not a whole number from 1".to_owned(),
        "REDIS_USERNAME from the environment: a username needs a password".to_owned(),
        "`deadline` set in code".to_owned(),
    ] {
        assert!(shown.contains(&part), "{part}\nin {shown}");
    }
}

#[test]
fn each_mistake_is_named_with_its_source_and_nothing_secret() {
    for (name, value, expected) in [
        ("REDIS_PORT", "70000", "`70000` is not a whole number from 1 to 65535"),
        ("REDIS_PORT", "0", "`0` is not"),
        ("REDIS_PORT", "s3cr3t", "environment: is not a whole number"),
        ("REDIS_PORT", "+1", "environment: is not"),
        ("REDIS_DB", "-1", "`-1` is not a whole number from 0 to 2147483647"),
        ("REDIS_DEADLINE_MS", "0", "`0` is not a whole number from 1"),
        ("REDIS_PING_INTERVAL_MS", "0", "`0` is not a whole number from 1"),
        ("REDIS_PING_TIMEOUT_MS", "s3cr3t", "environment: is not a whole number"),
        ("REDIS_HOST", "redis://:s3cr3t@h", "no host name has"),
        ("REDIS_HOST", "h\n", "no host name has"),
        ("REDIS_URL", "redis://u:s3cr3t@h:0/x", "the store URL is wrong: the port is not"),
        ("REDIS_URL", "s3cr3t", "no scheme"),
    ] {
        let shown = refusal(&from_env(&[(name, value)]));
        assert!(shown.starts_with(&format!("{name} from the environment: ")), "{shown}");
        assert!(shown.contains(expected), "{shown}");
    }
    for (content, expected) in [
        ("[redis]\npassword = \"s3cr3t\nport = 1", "it is not TOML: see line 2, column "),
        ("[redis]\npassword = 's3cr3t'\npassword = 's3cr3t'", "it is not TOML: see line 3"),
        ("host = 's3cr3t'", "it has no table [redis]"),
        ("redis = 's3cr3t'", "`redis` is not a table"),
        ("[redis]\npassword = 1_000", "it is not text; put it in quotes"),
        ("[redis]\nport = 1.5", "it is not a whole number"),
    ] {
        let shown = refusal(&from_toml(content));
        assert!(shown.contains(expected), "{content}: {shown}");
    }
    let missing = CacheConfig::load("/no/such/file.toml");
    assert!(refusal(&missing).contains("/no/such/file.toml: it cannot be read: entity not found"));
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf8_is_a_mistake_only_in_our_variables() {
    use std::os::unix::ffi::OsStringExt;
    let garbage = || OsString::from_vec(b"s3cr3t\xff".to_vec());
    let load =
        |name: &str| CacheConfig::collect(sources::load([(name.into(), garbage())], None, None));
    assert!(refusal(&load("REDIS_PASSWORD")).contains("REDIS_PASSWORD from the environment: it"));
    assert_eq!(url(&load("OTHER")), "redis://127.0.0.1:6379/0");
}

#[test]
fn code_cannot_set_what_no_server_has() {
    let shown = refusal(
        &CacheConfig::new().host("s3 cr3t").port(0).db(u32::MAX).max_connections(0).username("u"),
    );
    for part in ["`host`", "`port`", "`db`", "`max_connections`", "`username`"] {
        assert!(shown.contains(&format!("{part} set in code: ")), "{part} in {shown}");
    }
}

proptest! {
    #[test]
    fn a_password_of_any_characters_survives_from_any_source(password in any::<String>()) {
        prop_assume!(!password.is_empty());
        let expected = |config: CacheConfig| {
            let built = config.to_url().unwrap();
            match Target::parse(built.expose_secret()).unwrap() {
                Target::Redis(target) => target.password.unwrap().expose_secret() == password,
                Target::Memory { .. } | Target::Cluster { .. } => false,
            }
        };
        prop_assert!(expected(CacheConfig::new().password(password.as_str())));
        prop_assert!(expected(from_env(&[("REDIS_PASSWORD", &password)])));
        // A JSON string is a TOML string, but for DEL, which JSON leaves raw.
        let quoted = serde_json::to_string(&password).unwrap().replace('\u{7f}', "\\u007f");
        let toml = format!("[redis]\npassword = {quoted}");
        prop_assert!(expected(from_toml(&toml)));
        if !password.contains(['\'', '\\', '\n', '\r', '\0']) {
            let files = Files::new();
            let path = files.write(".env", format!("REDIS_PASSWORD='{password}'\n"));
            let loaded = sources::load(env(&[]), Some(&path), None);
            prop_assert!(expected(CacheConfig::collect(loaded)));
        }
    }
}

#[test]
fn files_without_an_end_and_settings_that_multiply_are_refused() {
    let endless = CacheConfig::load("/dev/zero");
    assert!(refusal(&endless).contains("/dev/zero: it is longer than"));
    let files = Files::new();
    let directory = CacheConfig::load(&files.0);
    assert!(refusal(&directory).contains("it cannot be read"));
    let binary = CacheConfig::load(files.write("binary", [0xff, 0, 0xfe]));
    assert!(refusal(&binary).contains("it cannot be read"));
    for deep in ["[".repeat(100_000), "a.".repeat(100_000), format!("[{}a]", "a.".repeat(100_000))]
    {
        let shown = refusal(&CacheConfig::load(files.write("deep", format!("x = {deep}"))));
        assert!(shown.contains("it is not TOML"), "{shown}");
        let shown = refusal(&CacheConfig::load(files.write("deep", deep)));
        assert!(shown.contains("it is not TOML"), "{shown}");
    }
    let doubling = "X=${X}${X}\n".repeat(60);
    let dotenv = files.write(".env", format!("X=1234567890\n{doubling}REDIS_HOST=h\n"));
    let config = CacheConfig::collect(sources::load(env(&[]), Some(&dotenv), None));
    assert!(refusal(&config).contains("is too long"));
}
