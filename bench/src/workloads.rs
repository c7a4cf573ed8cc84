//! What every contender is asked to do.

use std::fmt;
use std::sync::Arc;

use crate::Result;
use crate::contenders::Contender;
use crate::data::{self, MANY, Profile};
use crate::measure::{Counter, Pace, Sample, round};

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    Get,
    Set,
    GetJson,
    SetJson,
    Pipeline,
    GetMany,
    SetMany,
}

/// A workload at a number of tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial {
    workload: Workload,
    tasks: usize,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.workload {
            Workload::Get => "get 100 B",
            Workload::Set => "set 100 B",
            Workload::GetJson => "get JSON 1 KB",
            Workload::SetJson => "set JSON 1 KB",
            Workload::Pipeline => "pipeline of 100 GETs",
            Workload::GetMany => "get 100 keys",
            Workload::SetMany => "set 100 keys",
        };
        write!(f, "{name}, {} task{}", self.tasks, if self.tasks == 1 { "" } else { "s" })
    }
}

impl Trial {
    /// The smallest calls, in which all that is around them weighs most.
    pub(crate) fn small() -> Vec<Self> {
        let of = |workload| [1, 64, 512].map(|tasks| Self { workload, tasks });
        [of(Workload::Get), of(Workload::Set)].concat()
    }
}

/// All trials, in the order of the report.
pub(crate) fn trials() -> Vec<Trial> {
    let of = |workload, tasks: &[usize]| {
        tasks.iter().map(|tasks| Trial { workload, tasks: *tasks }).collect::<Vec<_>>()
    };
    [
        of(Workload::Get, &[1, 64, 512]),
        of(Workload::Set, &[1, 64, 512]),
        of(Workload::GetJson, &[1, 64]),
        of(Workload::SetJson, &[1, 64]),
        of(Workload::Pipeline, &[1, 16]),
        of(Workload::GetMany, &[1, 16]),
        of(Workload::SetMany, &[1, 16]),
    ]
    .concat()
}

/// One round of a trial.
pub(crate) async fn run<C: Contender>(contender: &C, trial: &Trial, pace: &Pace) -> Result<Sample> {
    let things = Arc::new(Things::new());
    round(trial.tasks, pace, |number, counter| {
        work(contender.clone(), trial.workload, number, Arc::clone(&things), counter)
    })
    .await
}

/// Made once a round, so that no contender pays for making it.
struct Things {
    keys: Vec<String>,
    documents: Vec<String>,
    value: String,
    profile: Profile,
    pairs: Vec<(String, String)>,
}

impl Things {
    fn new() -> Self {
        let keys: Vec<String> = (0..data::KEYS).map(data::key).collect();
        let value = data::value();
        let pairs = keys[..MANY].iter().map(|key| (key.clone(), value.clone())).collect();
        Self {
            documents: (0..data::KEYS).map(data::document_key).collect(),
            keys,
            value,
            profile: Profile::example(),
            pairs,
        }
    }
}

async fn work<C: Contender>(
    client: C,
    workload: Workload,
    number: usize,
    things: Arc<Things>,
    counter: Counter,
) -> Result<()> {
    // Tasks begin at keys that lie apart.
    let mut at = number * 61;
    loop {
        at += 1;
        let key = &things.keys[at % data::KEYS];
        let document = &things.documents[at % data::KEYS];
        match workload {
            Workload::Get => {
                let found = client.get(key).await?.map(|value| value.len());
                expect(found == Some(things.value.len()))?;
            }
            Workload::Set => client.set(key, &things.value).await?,
            Workload::GetJson => {
                let found = client.get_json(document).await?;
                expect(found.as_ref() == Some(&things.profile))?;
            }
            Workload::SetJson => client.set_json(document, &things.profile).await?,
            Workload::Pipeline => {
                expect(filled(&client.pipeline_get(&things.keys[..MANY]).await?))?;
            }
            Workload::GetMany => {
                expect(filled(&client.get_many(&things.keys[..MANY]).await?))?;
            }
            Workload::SetMany => client.set_many(&things.pairs).await?,
        }
        if !counter.done(1) {
            return Ok(());
        }
    }
}

fn filled(values: &[Option<String>]) -> bool {
    values.len() == MANY && values.iter().all(Option::is_some)
}

fn expect(right: bool) -> Result<()> {
    if right { Ok(()) } else { Err("a contender got a wrong answer".into()) }
}
