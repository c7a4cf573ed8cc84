//! Leader election: one leads at a time, another goes on when the leader is gone, and who is a leader no more stops.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder::testing::RedisServer;
use larder::{CacheClient, ErrorKind, LockWatcher, QuorumLock};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::common::full;
use crate::common::process::now;
use crate::{Lateness, alone, ends};

const URLS: &str = "LARDER_CANDIDATE_URLS";
const LEASE: Duration = Duration::from_millis(500);

/// Beyond the lease: a poll of those who wait, and what a process takes to run on a busy machine.
const SMALL: Duration = Duration::from_millis(400);

/// Says when the work of a leader ends, however it does.
struct Says;

impl Drop for Says {
    fn drop(&mut self) {
        println!("> ended {}", now());
    }
}

/// Leads until it is ended, and says when it surely did.
async fn lead(leadership: LockWatcher) {
    let _says = Says;
    println!("> leads {}", leadership.fencing_token().unwrap_or_default());
    loop {
        // The time first: it leads at this time if it does so afterwards.
        let at = now();
        if leadership.is_valid() {
            println!("> at {at}");
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Another process; in a test run of its own it has no servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_leads_whenever_it_can() {
    let Ok(urls) = std::env::var(URLS) else { return };
    let clients: Vec<_> =
        urls.split(' ').map(|url| CacheClient::builder().url(url).build().unwrap()).collect();
    match &clients[..] {
        [one] => one.lock("boss").lease(LEASE).run_while_leader(lead).await.unwrap(),
        many => QuorumLock::new(many, "boss").lease(LEASE).run_while_leader(lead).await.unwrap(),
    }
}

/// What a candidate said.
#[derive(Debug, Clone, Copy)]
enum Said {
    Leads(u64),
    At(u64),
    Ended(u64),
}

/// A candidate's process. Killed when it is dropped.
struct Candidate(Child);

impl Candidate {
    fn start(number: usize, urls: &str, said: mpsc::UnboundedSender<(usize, Said)>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "leader::a_candidate_leads_whenever_it_can", "--nocapture"])
            .env(URLS, urls)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // The test harness does not end its line before the test prints.
                let Some(at) = line.find("> ") else { continue };
                let words: Vec<&str> = line[at + 2..].split(' ').collect();
                let number_said = || words[1].parse().unwrap();
                let what = match words[0] {
                    "leads" => Said::Leads(number_said()),
                    "at" => Said::At(number_said()),
                    "ended" => Said::Ended(number_said()),
                    _ => continue,
                };
                if said.send((number, what)).is_err() {
                    return;
                }
            }
        });
        Self(child)
    }

    /// A signal, to the recorded process and no other.
    async fn signal(&self, signal: &str) {
        let pid = self.0.id().expect("it was not waited for");
        let sent =
            Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().await;
        assert!(sent.unwrap().success());
    }
}

/// A time of leading: whose, and the first and the last moment at which it surely led.
struct Term {
    who: usize,
    token: u64,
    first: u64,
    last: u64,
}

/// What all candidates said so far.
struct Chronicle {
    said: mpsc::UnboundedReceiver<(usize, Said)>,
    terms: Vec<Term>,
}

impl Chronicle {
    async fn next(&mut self) -> (usize, Said) {
        let (who, said) = ends("the candidates", self.said.recv()).await.unwrap();
        match said {
            Said::Leads(token) => {
                self.terms.push(Term { who, token, first: u64::MAX, last: 0 });
            }
            Said::At(at) => {
                let term = self.terms.iter_mut().rfind(|term| term.who == who).unwrap();
                term.first = term.first.min(at);
                term.last = term.last.max(at);
            }
            Said::Ended(_) => {}
        }
        (who, said)
    }

    /// Waits for somebody but `not` to lead, and then for a while of that. Who, and since when.
    async fn leader(&mut self, not: Option<usize>) -> (usize, u64) {
        loop {
            if let (who, Said::At(since)) = self.next().await
                && Some(who) != not
            {
                let mut more = 0;
                while more < 50 {
                    if let (_, Said::At(_)) = self.next().await {
                        more += 1;
                    }
                }
                return (who, since);
            }
        }
    }
}

/// Five processes, of which the leader is killed or stopped, again and again.
async fn they_follow_each_other(what: &str, urls: &str, rounds: usize, tokens: bool) {
    let (sender, said) = mpsc::unbounded_channel();
    let mut candidates: Vec<_> =
        (0..5).map(|number| Candidate::start(number, urls, sender.clone())).collect();
    let mut chronicle = Chronicle { said, terms: Vec::new() };
    let (mut killed, mut stopped, mut ended_after) = (Vec::new(), Vec::new(), Vec::new());
    let (mut leader, _) = chronicle.leader(None).await;
    for round in 0..rounds {
        let gone = now();
        let old = leader;
        if round % 2 == 0 {
            candidates[old].0.kill().await.unwrap();
            let (next, since) = chronicle.leader(Some(old)).await;
            killed.push(Duration::from_nanos(since.saturating_sub(gone)));
            leader = next;
            // Another comes in its place.
            candidates[old] = Candidate::start(old, urls, sender.clone());
        } else {
            candidates[old].signal("STOP").await;
            let (next, since) = chronicle.leader(Some(old)).await;
            stopped.push(Duration::from_nanos(since.saturating_sub(gone)));
            leader = next;
            let goes_on = now();
            candidates[old].signal("CONT").await;
            loop {
                if let (who, Said::Ended(at)) = chronicle.next().await
                    && who == old
                {
                    ended_after.push(Duration::from_nanos(at.saturating_sub(goes_on)));
                    break;
                }
            }
        }
    }
    drop(candidates);
    let mut terms = chronicle.terms;
    terms.retain(|term| term.last > 0);
    terms.sort_by_key(|term| term.first);
    let overlaps = terms.windows(2).filter(|pair| pair[0].last >= pair[1].first).count();
    let rising = terms.windows(2).all(|pair| pair[0].token < pair[1].token);
    println!(
        "leadership by {what}, 5 processes, lease {LEASE:?}: {} terms, {overlaps} overlaps by their own clocks; another led \
         {:.0?} at most after a kill, {:.0?} after a stop; a stopped leader's work was dropped {:.1?} at most after it went on",
        terms.len(),
        killed.iter().max().unwrap(),
        stopped.iter().max().unwrap(),
        ended_after.iter().max().unwrap()
    );
    assert!(terms.len() > rounds, "only {} terms", terms.len());
    assert_eq!(overlaps, 0);
    assert_eq!(rising, tokens, "fencing tokens");
    for took in killed.iter().chain(&stopped) {
        assert!(*took < LEASE + SMALL, "{took:?}");
    }
    assert!(ended_after.iter().all(|took| *took < SMALL), "{ended_after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_lead_one_at_a_time_whatever_becomes_of_the_leader() {
    let _turn = alone().await;
    let rounds = if full() { 20 } else { 4 };
    let server = RedisServer::start().await;
    they_follow_each_other("one server", &server.url(), rounds, true).await;
    let servers = join_all((0..3).map(|_| RedisServer::start())).await;
    let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
    they_follow_each_other("a quorum of 3", &urls.join(" "), rounds, false).await;
}

/// An election of one kind or the other.
#[derive(Clone)]
enum Office {
    One(larder::LockBuilder),
    Many(QuorumLock),
}

impl Office {
    async fn lead<W: Future>(
        &self,
        work: impl FnMut(LockWatcher) -> W,
    ) -> larder::Result<W::Output> {
        match self {
            Self::One(lock) => lock.run_while_leader(work).await,
            Self::Many(lock) => lock.run_while_leader(work).await,
        }
    }

    /// Waits until nobody leads.
    async fn free(&self) {
        let guard = match self {
            Self::One(lock) => lock.acquire().await,
            Self::Many(lock) => lock.acquire().await,
        };
        assert!(guard.unwrap().release().await.unwrap());
    }
}

/// Both kinds on a server and the embedded store, with a lease that nobody waits for.
async fn offices(
    lease: Duration,
) -> (Vec<RedisServer>, Vec<(&'static str, Office, Vec<CacheClient>)>) {
    let mut servers = vec![RedisServer::start().await];
    let redis = CacheClient::connect(servers[0].url()).await.unwrap();
    let stores = [("Redis", redis), ("embedded", CacheClient::memory())];
    let mut all = Vec::new();
    for (store, cache) in stores {
        all.push((store, Office::One(cache.lock("boss").lease(lease)), vec![cache]));
    }
    servers.extend(join_all((0..3).map(|_| RedisServer::start())).await);
    let redis: Vec<_> = servers[1..]
        .iter()
        .map(|server| CacheClient::builder().url(server.url()).build().unwrap())
        .collect();
    let memory: Vec<_> = (0..3).map(|_| CacheClient::memory()).collect();
    for (store, clients) in [("quorum of Redis", redis), ("quorum of embedded", memory)] {
        all.push((store, Office::Many(QuorumLock::new(&clients, "boss").lease(lease)), clients));
    }
    (servers, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_returns_panics_or_is_dropped_gives_the_leadership_back_at_once() {
    let _turn = alone().await;
    let (_servers, offices) = offices(Duration::from_secs(60)).await;
    for (store, office, _clients) in offices {
        let done = ends(
            "the work",
            office.lead(|leadership| async move {
                assert!(leadership.is_valid());
                tokio::task::yield_now().await;
                7
            }),
        )
        .await;
        assert_eq!(done.unwrap(), 7, "{store}");
        office.free().await;

        let panics = tokio::spawn({
            let office = office.clone();
            async move {
                office
                    .lead(|_| async {
                        tokio::task::yield_now().await;
                        panic!("on purpose")
                    })
                    .await
                    .map(|never: ()| never)
            }
        });
        assert!(ends("the panic", panics).await.unwrap_err().is_panic(), "{store}");
        office.free().await;

        let (begun, mut begins) = mpsc::unbounded_channel();
        let dropped = tokio::spawn({
            let office = office.clone();
            async move {
                office
                    .lead(|leadership| {
                        begun.send(leadership).unwrap();
                        std::future::pending::<()>()
                    })
                    .await
            }
        });
        let leadership = ends("the work", begins.recv()).await.unwrap();
        assert!(leadership.is_valid(), "{store}");
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
        assert!(!leadership.is_valid(), "{store}");
        assert_eq!(leadership.lost().await, larder::Loss::Released, "{store}");
        office.free().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_client_ends_the_wait_of_a_candidate_and_the_work_of_a_leader() {
    let _turn = alone().await;
    let lease = Duration::from_millis(600);
    let (servers, offices) = offices(lease).await;
    for (store, office, clients) in offices {
        let (begun, mut begins) = mpsc::unbounded_channel();
        let leads = tokio::spawn({
            let office = office.clone();
            async move {
                office
                    .lead(|_| {
                        begun.send(()).unwrap();
                        std::future::pending::<()>()
                    })
                    .await
            }
        });
        ends("the work", begins.recv()).await.unwrap();
        // Somebody of another process waits, if the store has others.
        let others: Vec<_> = match (store, &servers[..]) {
            ("Redis", [server, ..]) => vec![CacheClient::connect(server.url()).await.unwrap()],
            ("quorum of Redis", [_, servers @ ..]) => servers
                .iter()
                .map(|server| CacheClient::builder().url(server.url()).build().unwrap())
                .collect(),
            _ => Vec::new(),
        };
        if let Some(first) = others.first() {
            let waits = tokio::spawn({
                let others = others.clone();
                async move {
                    match &others[..] {
                        [one] => one.lock("boss").run_while_leader(|_| async {}).await,
                        many => QuorumLock::new(many, "boss").run_while_leader(|_| async {}).await,
                    }
                }
            });
            while first.stats().locks.contended == 0 {
                tokio::task::yield_now().await;
            }
            join_all(others.iter().map(CacheClient::close)).await;
            let begun = Instant::now();
            let error = ends("the wait", waits).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Closed, "{store}: {error}");
            println!(
                "leadership by {store}: a candidate ended {:.0?} after its client was closed",
                begun.elapsed()
            );
        }
        assert!(!leads.is_finished(), "{store}");
        join_all(clients.iter().map(CacheClient::close)).await;
        let begun = Instant::now();
        let error = ends("the work", leads).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{store}: {error}");
        assert!(begun.elapsed() < lease + SMALL, "{store}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_ends_the_work_within_the_lease_and_it_begins_anew_when_it_is_back() {
    let _turn = alone().await;
    let lease = Duration::from_millis(600);
    let (mut servers, mut offices) = offices(lease).await;
    offices.retain(|(store, ..)| store.ends_with("Redis"));
    for (store, office, _clients) in offices {
        // Of three, two: a minority may be away.
        let away = if store == "Redis" { 0..1 } else { 1..3 };
        let (begun, mut begins) = mpsc::unbounded_channel();
        let terms = Arc::new(AtomicU32::new(0));
        let leads = tokio::spawn({
            let terms = Arc::clone(&terms);
            async move {
                office
                    .lead(|leadership| {
                        begun.send(leadership).unwrap();
                        let term = terms.fetch_add(1, Ordering::SeqCst);
                        async move {
                            if term == 0 {
                                std::future::pending::<()>().await;
                            }
                        }
                    })
                    .await
            }
        });
        let leadership = ends("the first term", begins.recv()).await.unwrap();
        for at in away.clone() {
            servers[at].kill().await;
        }
        let (killed, machine) = (Instant::now(), Lateness::watch());
        assert_eq!(ends("lost", leadership.lost()).await, larder::Loss::Expired, "{store}");
        let told = killed.elapsed();
        let machine = machine.most().await;
        assert!(told < lease + machine, "{store}: {told:?}");
        assert!(!leads.is_finished(), "{store}: it is waited for");
        for at in away {
            servers[at].restart().await;
        }
        let back = Instant::now();
        let again = ends("the second term", begins.recv()).await.unwrap();
        let took = back.elapsed();
        ends("the work", leads).await.unwrap().unwrap();
        assert_eq!(terms.load(Ordering::SeqCst), 2, "{store}");
        if let (Some(one), Some(two)) = (leadership.fencing_token(), again.fencing_token()) {
            assert!(one < two, "{store}");
        }
        println!(
            "leadership by {store}: told {told:.0?} after the servers were killed, led again {took:.0?} after they were back"
        );
    }
}
