//! stub
use std::time::Duration;
#[allow(dead_code)]
pub(crate) enum Read {
    NearHit,
    SharedHit,
    StaleHit,
    Miss,
    Load,
    Joined,
    LeaseWait,
    Takeover,
    RefusedFill,
    EarlyRefresh,
    LoadFailure,
    StoreFailure,
}
pub(crate) struct ReadRecorder;
impl ReadRecorder {
    pub(crate) fn count(&self, _r: Read) {}
    pub(crate) fn age(&self, _a: Duration) {}
    pub(crate) fn load_time(&self, _a: Duration) {}
    pub(crate) fn mean_load_time(&self) -> Duration {
        Duration::ZERO
    }
}
impl super::Recorder {
    pub(crate) fn reads(&self, _n: &[u8]) -> std::sync::Arc<ReadRecorder> {
        std::sync::Arc::new(ReadRecorder)
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Cause { Pushed, OwnWrite, Flushed, Lost, Expired }
impl From<u8> for Cause { fn from(n: u8) -> Self { [Self::Pushed, Self::OwnWrite, Self::Flushed, Self::Lost, Self::Expired][n as usize] } }
impl ReadRecorder { pub(crate) fn invalidated(&self, _c: Cause) {} #[cfg(test)] pub(crate) fn new() -> Self { Self } }
