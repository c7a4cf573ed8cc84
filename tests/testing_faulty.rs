//! The faulty store fails as it is told, and says the truth about what was applied.

use std::time::{Duration, Instant};

use larder::store::MemoryStore;
use larder::testing::{Fault, Faulty};
use larder::{CacheClient, ErrorKind, Outcome};

fn faulty() -> (Faulty<MemoryStore>, CacheClient) {
    let faulty = Faulty::new(MemoryStore::new()).seed(7);
    let cache = CacheClient::builder()
        .store(faulty.clone())
        .deadline(Duration::from_millis(100))
        .build()
        .unwrap();
    (faulty, cache)
}

#[tokio::test]
async fn each_fault_says_whether_the_call_was_applied() {
    let (faulty, cache) = faulty();
    for (fault, kind, outcome, applied) in [
        (Fault::Before(ErrorKind::Overloaded), ErrorKind::Overloaded, Outcome::NotSent, 0),
        (Fault::Refused(ErrorKind::OutOfMemory), ErrorKind::OutOfMemory, Outcome::Rejected, 0),
        (Fault::After(ErrorKind::Unavailable), ErrorKind::Unavailable, Outcome::Unknown, 1),
        (Fault::Dropped, ErrorKind::Timeout, Outcome::Unknown, 0),
    ] {
        faulty.fail_next(fault);
        let error = cache.incr_by("n", 1).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome(), error.op()), (kind, outcome, "incr_by"));
        let now = cache.get_value("n").await.unwrap();
        assert_eq!(now, (applied > 0).then(|| applied.to_string()), "{fault:?}");
        cache.delete_key("n").await.unwrap();
    }
    assert_eq!(faulty.failed(), 4);
}

#[tokio::test]
async fn faults_come_at_a_count_or_at_a_share_that_the_seed_repeats() {
    let (faulty, cache) = faulty();
    faulty.fail_every(3, Fault::Before(ErrorKind::Server));
    let mut results = Vec::new();
    for _ in 0..9 {
        results.push(cache.incr_by("n", 1).await.is_ok());
    }
    assert_eq!(results, [true, true, false, true, true, false, true, true, false]);
    faulty.heal();

    let run = async || {
        let (faulty, cache) = self::faulty();
        faulty.fail_share(0.3, Fault::Before(ErrorKind::Server));
        let mut results = Vec::new();
        for _ in 0..200 {
            results.push(cache.incr_by("n", 1).await.is_ok());
        }
        (results, faulty.failed())
    };
    let (first, failed) = run().await;
    assert_eq!(run().await.0, first);
    assert!((30..90).contains(&failed), "{failed} of 200");
}

#[tokio::test]
async fn a_read_gets_over_an_unavailable_store_and_a_delay_takes_its_time() {
    let (faulty, cache) = faulty();
    cache.set_value("k", "v", None).await.unwrap();
    let seen = faulty.seen();
    faulty.fail_next(Fault::After(ErrorKind::Unavailable));
    faulty.fail_next(Fault::Before(ErrorKind::Unavailable));
    assert_eq!(cache.get_value("k").await.unwrap().as_deref(), Some("v"));
    assert_eq!(faulty.seen() - seen, 3);

    faulty.delay(Duration::from_millis(20), Duration::from_millis(30));
    let started = Instant::now();
    cache.get_value("k").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(20));
    faulty.delay(Duration::from_secs(60), Duration::from_secs(60));
    assert!(cache.get_value("k").await.unwrap_err().is_timeout());
    faulty.heal();
    assert!(cache.get_value("k").await.is_ok());
}
