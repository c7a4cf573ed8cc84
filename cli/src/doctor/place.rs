//! The parts of a URL that was checked before: what is shown of it, and the URLs of the servers behind it.

/// A store URL, taken apart. It has credentials in it, so it has no `Debug`.
pub(super) struct Place<'a> {
    pub(super) scheme: String,
    /// With the `@`, or empty.
    login: &'a str,
    hosts: &'a str,
    /// With the `/`, or empty.
    path: &'a str,
    /// With the `?`, or empty.
    query: &'a str,
}

impl<'a> Place<'a> {
    pub(super) fn of(url: &'a str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (login, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let (path, query) = tail.split_at(tail.find('?').unwrap_or(tail.len()));
        Self { scheme: scheme.to_ascii_lowercase(), login, hosts, path, query }
    }

    /// The URL without credentials and options.
    pub(super) fn shown(&self) -> String {
        format!("{}://{}{}", self.scheme, self.hosts, self.path)
    }

    /// The hosts with their ports, as they stand there.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &'a str> {
        self.hosts.split(',')
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.scheme.starts_with("rediss")
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.scheme.ends_with("+cluster")
    }

    pub(super) fn is_sentinel(&self) -> bool {
        self.scheme.ends_with("+sentinel")
    }

    /// Whether what is sent never leaves this machine, as far as the names tell.
    pub(super) fn is_local(&self) -> bool {
        self.scheme == "redis+unix" || self.hosts().all(is_loopback)
    }

    /// The URL of one node of a cluster, with the same credentials and options.
    pub(super) fn node(&self, address: &str) -> String {
        let scheme = self.scheme.trim_end_matches("+cluster");
        format!("{scheme}://{}{address}{}", self.login, self.query)
    }

    /// The URL of a sentinel, whom the credentials do not concern, with the same options.
    pub(super) fn sentinel(&self, host: &str) -> String {
        let scheme = self.scheme.trim_end_matches("+sentinel");
        let has_port = match host.strip_prefix('[') {
            Some(bracketed) => bracketed.contains("]:"),
            None => host.contains(':'),
        };
        let port = if has_port { "" } else { ":26379" };
        format!("{scheme}://{host}{port}{}", self.query)
    }

    /// The name of the primary that the sentinels watch.
    pub(super) fn primary(&self) -> String {
        let name = self.path.trim_start_matches('/').split('/').next().unwrap_or_default();
        decoded(name)
    }
}

/// An address as a URL has it.
pub(super) fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Percent-decoded. The URL was checked before, so that all of it is right.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let code = others.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The host of an address, without the port and without brackets.
pub(super) fn host(address: &str) -> &str {
    match address.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => address.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(address: &str) -> bool {
    let host = host(address);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_credentials() {
        for (url, shown) in [
            ("redis://ada:p%40w@h:1/2?connections=3", "redis://h:1/2"),
            ("redis+cluster://:pw@h1:1,h2:2", "redis+cluster://h1:1,h2:2"),
            ("redis+unix://ada:pw@/run/r%401.sock?db=1", "redis+unix:///run/r%401.sock"),
            ("REDIS+sentinel://:p@w@h1,h2/name", "redis+sentinel://h1,h2/name"),
            ("memory://", "memory://"),
        ] {
            assert_eq!(Place::of(url).shown(), shown);
        }
    }

    #[test]
    fn the_servers_behind_a_url_have_urls_of_their_own() {
        let cluster = Place::of("rediss+cluster://ada:pw@h1,h2:7000?ca=%2Fca.pem");
        assert_eq!(cluster.node("h3:7001"), "rediss://ada:pw@h3:7001?ca=%2Fca.pem");
        assert_eq!(cluster.hosts().collect::<Vec<_>>(), ["h1", "h2:7000"]);
        assert_eq!(Place::of("redis+sentinel://:pw@h1/my%20name/2").primary(), "my name");
        assert_eq!(Place::of("redis+sentinel://h1/50%25%2fx").primary(), "50%/x");
        let plain = Place::of("redis+sentinel://:pw@h1/name/2");
        assert_eq!(plain.sentinel("h1"), "redis://h1:26379");
        assert_eq!(plain.sentinel("[::1]"), "redis://[::1]:26379");
        assert_eq!(plain.sentinel("[::1]:5000"), "redis://[::1]:5000");
        let tls = Place::of("rediss+sentinel://:pw@h1/name/2?ca=%2Fca.pem");
        assert!(tls.is_sentinel() && tls.is_encrypted());
        assert_eq!(tls.sentinel("h1"), "rediss://h1:26379?ca=%2Fca.pem");
        assert_eq!(
            (address("::1", 7).as_str(), host("[::1]:7"), host("h")),
            ("[::1]:7", "::1", "h")
        );
    }

    #[test]
    fn what_stays_on_this_machine_is_known_by_its_name() {
        for local in
            ["redis://127.0.0.1:1", "redis://[::1]", "redis://localhost", "redis+unix:///r"]
        {
            assert!(Place::of(local).is_local(), "{local}");
        }
        for remote in ["redis://cache", "redis+cluster://127.0.0.1,cache", "redis://10.0.0.1"] {
            assert!(!Place::of(remote).is_local(), "{remote}");
        }
    }
}
