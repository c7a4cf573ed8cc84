//! Alarms: they wake calls whose deadlines come near. Nearly every call is answered long before, so the calls of a thread
//! share one timer: one of the runtime's own for each call would take a lock that all its threads share, twice.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use futures_util::future::select;
use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

thread_local! {
    static HERE: Here = const { Here(RefCell::new(Vec::new())) };
}

/// The watches of a thread, one for each runtime that it was in, as long as a task there looks.
struct Here(RefCell<Vec<(Id, Arc<Watch>)>>);

impl Drop for Here {
    fn drop(&mut self) {
        // Nobody sets alarms here any more: a task that slept for a long deadline would outlive many threads.
        self.0.get_mut().iter().for_each(|(_, watch)| watch.sooner.notify_one());
    }
}

/// Wakes a task at about a moment, unless it is dropped before. It is a task that does so: in a busy runtime it takes its
/// turn, and what it wakes then takes its own.
pub(super) struct Alarm {
    watch: Arc<Watch>,
    at: usize,
}

impl Alarm {
    /// An alarm that wakes the task of `cx`. To be called within a runtime.
    pub(super) fn set(moment: Instant, cx: &Context<'_>) -> Self {
        let (watch, waker) = (Watch::here(), cx.waker().clone());
        let mut state = watch.state();
        let at = state.add(Place::Set(moment, waker));
        let look = state.expect(moment);
        drop(state);
        watch.tell(look);
        Self { watch, at }
    }

    /// The task of `cx` waits now, which may be another one. Answers whether it is still to be woken: if not, its time came,
    /// or the runtime in which it was set is gone.
    pub(super) fn keep(&self, cx: &Context<'_>) -> bool {
        match self.watch.state().waker(self.at) {
            None => return false,
            Some(waker) if waker.will_wake(cx.waker()) => return true,
            Some(_) => {}
        }
        // Wakers are cloned and dropped without the lock: what they do may set and drop alarms.
        let mut waker = cx.waker().clone();
        let mut state = self.watch.state();
        let Some(before) = state.waker(self.at) else { return false };
        std::mem::swap(before, &mut waker);
        drop(state);
        true
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut state = self.watch.state();
        let place = std::mem::replace(&mut state.places[self.at], Place::Free);
        state.free.push(self.at);
        drop(state);
        drop(place);
    }
}

/// The alarms that one thread set within one runtime, and what its task there knows.
#[derive(Default)]
struct Watch {
    state: Mutex<State>,
    // An alarm is sooner than the task knows.
    sooner: Notify,
}

#[derive(Default)]
struct State {
    places: Vec<Place>,
    free: Vec<usize>,
    // When the task looks again, as long as there is one.
    next: Option<Instant>,
}

enum Place {
    Set(Instant, Waker),
    Rang,
    // Nobody has it.
    Free,
}

/// Whether somebody will look in time.
enum Look {
    Known,
    Sooner,
    Nobody(Instant),
}

impl Watch {
    fn here() -> Arc<Self> {
        let id = Handle::current().id();
        let here = HERE.try_with(|here| {
            let mut here = here.0.borrow_mut();
            if let Some((_, watch)) = here.iter().find(|(of, _)| *of == id) {
                return Arc::clone(watch);
            }
            here.retain(|(_, watch)| watch.state().next.is_some());
            let watch = Arc::<Self>::default();
            here.push((id, Arc::clone(&watch)));
            watch
        });
        // A thread that is about to end keeps nothing.
        here.unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(self: &Arc<Self>, look: Look) {
        match look {
            Look::Known => {}
            Look::Sooner => self.sooner.notify_one(),
            Look::Nobody(next) => {
                let due = Vec::new();
                tokio::spawn(Watcher { watch: Arc::clone(self), next: Some(next), due }.run());
            }
        }
    }
}

impl State {
    fn add(&mut self, place: Place) -> usize {
        match self.free.pop() {
            Some(at) => {
                self.places[at] = place;
                at
            }
            None => {
                self.places.push(place);
                self.places.len() - 1
            }
        }
    }

    fn expect(&mut self, moment: Instant) -> Look {
        match self.next {
            Some(next) if next <= moment => Look::Known,
            before => {
                self.next = Some(moment);
                if before.is_some() { Look::Sooner } else { Look::Nobody(moment) }
            }
        }
    }

    fn waker(&mut self, at: usize) -> Option<&mut Waker> {
        match &mut self.places[at] {
            Place::Set(_, waker) => Some(waker),
            Place::Rang | Place::Free => None,
        }
    }

    /// Takes out the wakers of the alarms that are due, or of all, and finds out when the next one is.
    fn ring(&mut self, now: Option<Instant>, due: &mut Vec<Waker>) {
        self.next = None;
        for place in &mut self.places {
            match place {
                Place::Set(moment, _) if now.is_some_and(|now| *moment > now) => {
                    self.next = Some(self.next.map_or(*moment, |next| next.min(*moment)));
                }
                Place::Set(..) => {
                    if let Place::Set(_, waker) = std::mem::replace(place, Place::Rang) {
                        due.push(waker);
                    }
                }
                Place::Rang | Place::Free => {}
            }
        }
        self.shrink();
    }

    /// What many calls at once took is not kept for ever.
    fn shrink(&mut self) {
        if self.free.len() <= self.places.len() / 2 {
            return;
        }
        while matches!(self.places.last(), Some(Place::Free)) {
            self.places.pop();
        }
        let kept = self.places.len();
        self.free.retain(|at| *at < kept);
        self.places.shrink_to(2 * kept);
        self.free.shrink_to(2 * kept);
    }
}

/// The task that rings. It ends when it finds no alarm set, and the next alarm starts another.
struct Watcher {
    watch: Arc<Watch>,
    next: Option<Instant>,
    due: Vec<Waker>,
}

impl Watcher {
    async fn run(mut self) {
        while let Some(next) = self.next {
            select(pin!(sleep_until(next)), pin!(self.watch.sooner.notified())).await;
            {
                let mut state = self.watch.state();
                state.ring(Some(Instant::now()), &mut self.due);
                self.next = state.next;
            }
            self.wake();
        }
    }

    fn wake(&mut self) {
        while let Some(waker) = self.due.pop() {
            waker.wake();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The runtime is being shut down, or has no timers. Whoever waits elsewhere gets a timer of that place, or an error.
        if self.next.is_some() {
            self.watch.state().ring(None, &mut self.due);
        }
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use futures_util::future::{Either, join_all};
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    const D: Duration = Duration::from_secs(1);

    /// Ends when it rings.
    async fn ringing(moment: Instant) {
        let mut alarm = None;
        poll_fn(|cx| match &alarm {
            Some(alarm) if !Alarm::keep(alarm, cx) => Poll::Ready(()),
            Some(_) => Poll::Pending,
            None => {
                alarm = Some(Alarm::set(moment, cx));
                Poll::Pending
            }
        })
        .await;
    }

    /// Ends at its moment.
    async fn wait(moment: Instant) {
        ringing(moment).await;
        assert!(Instant::now() >= moment, "too early");
    }

    fn set_here() -> usize {
        let watch = Watch::here();
        let state = watch.state();
        state.places.len() - state.free.len()
    }

    fn alone() -> Runtime {
        Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_rings_at_its_moment_whichever_was_set_first() {
        let begun = Instant::now();
        let waits = [5_u32, 1, 3, 1, 4].map(|times| async move {
            wait(begun + D * times).await;
            (times, begun.elapsed())
        });
        for (times, took) in join_all(waits).await {
            let late = took - D * times;
            assert!(late <= Duration::from_millis(2), "{times}: {took:?}");
        }
        assert_eq!(set_here(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_dropped_leaves_nothing_and_the_task_ends() {
        let watch = Watch::here();
        for _ in 0..3 {
            let begun = Instant::now();
            for _ in 0..100 {
                let waiting = pin!(wait(begun + D));
                assert!(matches!(
                    select(waiting, pin!(tokio::task::yield_now())).await,
                    Either::Right(_)
                ));
            }
            assert_eq!(set_here(), 0);
            assert!(watch.state().places.len() <= 1, "places are used again");
            assert!(watch.state().next.is_some());
            tokio::time::sleep(D * 2).await;
            assert!(watch.state().next.is_none());
            assert_eq!(watch.state().places.len(), 0);
            assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_polled_last_is_woken() {
        let moment = Instant::now() + D;
        let mut waiting = Box::pin(wait(moment));
        assert!(futures_util::future::poll_immediate(&mut waiting).await.is_none());
        tokio::spawn(waiting).await.unwrap();
        assert!(Instant::now() >= moment);
    }

    #[test]
    fn runtimes_of_one_thread_have_their_own_and_those_that_are_gone_leave_nothing() {
        let (one, other) = (alone(), alone());
        for _ in 0..3 {
            for runtime in [&one, &other] {
                runtime.block_on(async { wait(Instant::now() + D).await });
                // Longer than the block lasts: its task stays, and is there when the runtime runs again.
                let soon = async {
                    _ = select(pin!(wait(Instant::now() + D * 9)), pin!(tokio::task::yield_now()))
                        .await
                };
                runtime.block_on(soon);
            }
        }
        assert_eq!(HERE.with(|here| here.0.borrow().len()), 2);
        drop((one, other));
        alone().block_on(async { wait(Instant::now() + D).await });
        assert_eq!(HERE.with(|here| here.0.borrow().len()), 1);
    }

    #[test]
    fn one_that_waits_elsewhere_is_woken_when_the_runtime_it_was_set_in_ends() {
        let first = alone();
        let mut waiting = Box::pin(ringing(Instant::now() + D * 3600));
        first.block_on(async {
            assert!(futures_util::future::poll_immediate(&mut waiting).await.is_none());
        });
        let ended = std::thread::spawn(move || block_on_no_runtime(waiting));
        drop(first);
        ended.join().unwrap();
    }

    /// Without a runtime.
    fn block_on_no_runtime(waiting: impl Future<Output = ()>) {
        struct Unparks(std::thread::Thread);
        impl std::task::Wake for Unparks {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unparks(std::thread::current())));
        let (mut waiting, begun) = (pin!(waiting), std::time::Instant::now());
        while waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            std::thread::park_timeout(D);
            assert!(begun.elapsed() < D * 10, "it hung");
        }
    }

    #[test]
    fn a_runtime_without_timers_wakes_whom_it_cannot_ring_for() {
        let runtime = Builder::new_current_thread().build().unwrap();
        // The task panics.
        runtime.block_on(ringing(Instant::now() + D));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_of_a_thread_that_is_gone_does_not_sleep_on() {
        let here = Handle::current();
        let call = move || {
            let _here = here.enter();
            let waker = Waker::noop();
            let alarm = Alarm::set(Instant::now() + D * 3600, &Context::from_waker(waker));
            drop(alarm);
        };
        std::thread::spawn(call).join().unwrap();
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 1);
        let begun = Instant::now();
        while Handle::current().metrics().num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() < D);
    }

    #[tokio::test(start_paused = true)]
    async fn what_many_at_once_took_is_given_back_though_one_stays() {
        let watch = Watch::here();
        let mut one = pin!(wait(Instant::now() + D * 5));
        assert!(futures_util::future::poll_immediate(&mut one).await.is_none());
        let all: Vec<_> = (0..1_000).map(|_| Box::pin(wait(Instant::now() + D))).collect();
        join_all(all).await;
        assert_eq!(watch.state().places.len(), 1_001);
        one.await;
        assert_eq!(watch.state().places.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn none_is_lost_among_many_that_are_dropped() {
        let rounds = (0..64_u64).map(|task| {
            tokio::spawn(async move {
                for round in 0..200 {
                    let millis = (task * 7 + round) % 5;
                    let waiting = pin!(wait(Instant::now() + Duration::from_millis(millis)));
                    if round % 3 == 0 {
                        waiting.await;
                    } else {
                        _ = select(waiting, pin!(tokio::task::yield_now())).await;
                    }
                }
            })
        });
        let all = tokio::time::timeout(D * 20, join_all(rounds)).await;
        all.expect("an alarm was lost").into_iter().for_each(Result::unwrap);
    }
}
