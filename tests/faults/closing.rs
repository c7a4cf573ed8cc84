//! A client that is closed under calls: what is in flight ends, what comes later is refused, and `close` waits for the former.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::future::join_all;
use larder::{ErrorKind, Outcome};

use crate::common::ends;
use crate::{Place, alone};

const CALLS: usize = 200;

async fn waits(mut work: Pin<&mut impl Future>) -> bool {
    poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await
}

async fn is_closed_under_calls(place: Place) {
    let cache = place.client().await;
    let keys: Vec<String> = (0..30).map(|number| format!("n:{number}")).collect();
    let all = join_all(keys.iter().map(|key| cache.incr_by(key, 0))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    for node in place.nodes() {
        node.pause().await;
    }
    let mut calls: Vec<_> =
        (0..CALLS).map(|number| Box::pin(cache.incr_by(&keys[number % keys.len()], 1))).collect();
    for call in &mut calls {
        assert!(waits(call.as_mut()).await);
        // What a task may do at once is bounded.
        tokio::task::yield_now().await;
    }
    let mut closing = std::pin::pin!(cache.close());
    assert!(waits(closing.as_mut()).await, "it does not wait for what is in flight");
    let later = cache.ping().await.unwrap_err();
    assert_eq!((later.kind(), later.outcome()), (ErrorKind::Closed, Outcome::NotSent));
    for node in place.nodes() {
        node.resume().await;
    }
    let done = ends("the calls", join_all(calls)).await;
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    ends("closing", closing).await;
    let mut sum = 0;
    for key in &keys {
        sum += place.command(key, &["GET", key]).await.text().unwrap().parse::<usize>().unwrap();
    }
    println!("closed under {CALLS} calls to a server{}: all of them were answered", place.name());
    assert_eq!(sum, CALLS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_closed_under_calls_waits_for_their_answers() {
    let _turn = alone().await;
    is_closed_under_calls(Place::one(|server| server).await).await;
    is_closed_under_calls(Place::primaries(|server| server).await).await;
}
