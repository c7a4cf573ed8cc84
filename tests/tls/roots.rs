//! The roots of the operating system. They are looked up by variables of the process, so each case is a process of its own:
//! this test binary again.

use std::path::Path;
use std::process::Stdio;

use larder::CacheClient;
use tokio::process::Command;

use super::{Authority, bad_ones, server};

const URL: &str = "LARDER_ROOTS_URL";

/// The other process; in a test run of its own it has nobody to serve.
#[tokio::test]
async fn somebody_who_trusts_the_system() {
    let Ok(url) = std::env::var(URL) else { return };
    match CacheClient::connect(url).await {
        Ok(cache) => println!("> {:?}", cache.ping().await),
        Err(error) => println!("> {:?} {error}", error.kind()),
    }
}

/// What comes of connecting, where the system's roots are these.
async fn connecting(url: &str, roots: Option<&Path>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "roots::somebody_who_trusts_the_system", "--nocapture"]);
    command.env(URL, url).env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    if let Some(roots) = roots {
        command.env("SSL_CERT_FILE", roots);
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = text.split_once("> ").unwrap_or_else(|| panic!("it said nothing: {text}")).1;
    said.lines().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_roots_of_the_system_are_whom_a_client_trusts_who_names_none() {
    let ours = Authority::new();
    let good = server(&ours.good(), None).await;
    let roots = good.dir().join("roots.pem");
    std::fs::write(&roots, format!("{}{}", Authority::new().pem, ours.pem)).unwrap();
    let strangers = good.dir().join("strangers.pem");
    std::fs::write(&strangers, Authority::new().pem).unwrap();
    let none = good.dir().join("none.pem");
    std::fs::write(&none, "").unwrap();

    assert_eq!(connecting(&good.tls_url(), Some(&roots)).await, "Ok(())");
    let is_stranger =
        |said: &str| said.starts_with("Tls") && said.contains("by nobody whom we trust");
    let has_none = |said: &str| said.starts_with("Config") && said.contains("no root certificates");
    let said = connecting(&good.tls_url(), Some(&strangers)).await;
    assert!(is_stranger(&said), "{said}");
    let said = connecting(&good.tls_url(), None).await;
    // Those of this machine know nothing of us, if it has any.
    assert!(is_stranger(&said) || has_none(&said), "{said}");
    let said = connecting(&good.tls_url(), Some(&none)).await;
    assert!(has_none(&said), "{said}");
    let (mut refused, mut accepted) = (3, 0);
    for (what, identity, _, said) in bad_ones(&ours).into_iter().take(6) {
        let server = server(&identity, None).await;
        let got = connecting(&server.tls_url(), Some(&roots)).await;
        assert!(got.starts_with("Tls") && got.contains(said), "{what}: {got}");
        let stats = server.command(&["INFO", "commandstats"]).await.text().unwrap();
        accepted += usize::from(stats.contains("cmdstat_hello"));
        refused += 1;
    }
    println!(
        "P28: the system's roots, 1 server accepted by them, {refused} refused, accepted wrongly {accepted}"
    );
    assert_eq!(accepted, 0);
}
