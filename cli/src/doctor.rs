//! `larder doctor`: whether a server is set up for what larder does with it.

use larder::{CacheClient, Error, ExposeSecret};
use serde_json::Value;

use crate::DONE;
use crate::args::{Args, DoctorArgs};
use crate::failure::Failure;
use crate::output::Output;
use crate::server;

mod ask;
mod cluster;
mod facts;
mod finding;
mod judge;
mod permissions;
mod place;
mod sentinels;

use ask::Server;
use cluster::Layout;
use facts::Facts;
use finding::{Finding, State, Tally};
use place::Place;

/// The exit code if something of larder will fail there.
const PROBLEMS: u8 = 1;

/// Looks at the store of a URL and writes what it finds. Answers the exit code.
pub(crate) async fn run(args: &Args, doctor: &DoctorArgs) -> Result<u8, Failure> {
    let mut out = Output::new(args.json);
    let url = server::url(args)?;
    let url = url.expose_secret();
    // Whatever is wrong with the settings ends it here; from then on, what fails is a finding.
    CacheClient::builder().url(url).build()?;
    let place = Place::of(url);
    let look = Look { place: &place, prefix: doctor.prefix.as_deref() };
    let mut tally = Tally::default();
    if place.scheme == "memory" {
        let found = "the embedded store, in the process itself: there is nothing to check";
        tally.show("memory://", &[Finding::good("reach", found)], &mut out)?;
    } else if place.is_cluster() {
        look.cluster(&mut tally, &mut out).await?;
    } else if place.is_sentinel() {
        look.sentinels(url, &mut tally, &mut out).await?;
    } else {
        let findings = look.server(url).await;
        tally.show(&place.shown(), &findings, &mut out)?;
    }
    tally.sum_up(&mut out)?;
    out.flush()?;
    Ok(if tally.has_problems() { PROBLEMS } else { DONE })
}

/// What is looked at.
struct Look<'a> {
    place: &'a Place<'a>,
    prefix: Option<&'a str>,
}

impl Look<'_> {
    /// One server that takes writes, by its URL.
    async fn server(&self, url: &str) -> Vec<Finding> {
        match Server::connect(url).await {
            Ok(mut server) => self.connected(&mut server).await,
            Err(error) => vec![unreachable(&error)],
        }
    }

    async fn connected(&self, server: &mut Server) -> Vec<Finding> {
        let facts = Facts::of(server).await;
        let mut findings = judge::all(&facts, self.place);
        findings.extend(permissions::check(server, self.prefix, self.place).await);
        findings
    }

    /// The layout of a cluster as the first node that answers has it, and then every node.
    async fn cluster(&self, tally: &mut Tally, out: &mut Output) -> Result<(), Failure> {
        let whole = self.place.shown();
        let mut away = Vec::new();
        for seed in self.place.hosts() {
            let mut server = match Server::connect(&self.place.node(seed)).await {
                Ok(server) => server,
                Err(error) => {
                    away.push(unreachable(&error));
                    continue;
                }
            };
            let layout = match Layout::ask(&mut server, place::host(seed)).await {
                Ok(layout) => layout,
                Err(why) => {
                    away.push(Finding::problem(
                        "slots",
                        format!("the slots are not known: {}", why.text()),
                        "name nodes of a cluster, and allow the user `+cluster|slots`; a single server has redis://",
                    ));
                    continue;
                }
            };
            // Without them it works as long as this one is there.
            away.iter_mut().for_each(|seed| seed.state = State::Advice);
            away.extend([layout.slots(), layout.replicas()]);
            tally.show(&whole, &away, out)?;
            for (address, is_primary) in layout.nodes() {
                let findings = self.node(address, is_primary).await;
                tally.show(address, &findings, out)?;
            }
            return Ok(());
        }
        tally.show(&whole, &away, out)
    }

    /// A node of a cluster. A replica takes no writes, which is no fault of it; the rest matters once it takes over.
    async fn node(&self, address: &str, is_primary: bool) -> Vec<Finding> {
        let mut server = match Server::connect(&self.place.node(address)).await {
            Ok(server) => server,
            Err(error) => return vec![unreachable(&error)],
        };
        let mut findings = vec![cluster::state(&mut server).await];
        findings.extend(self.connected(&mut server).await);
        if !is_primary && let Some(role) = findings.iter_mut().find(|one| one.check == "role") {
            let details = std::mem::take(&mut role.details);
            *role = Finding { details, ..Finding::good("role", "a replica of the cluster") };
        }
        findings
    }

    /// The sentinels, and the primary that they name.
    async fn sentinels(
        &self,
        url: &str,
        tally: &mut Tally,
        out: &mut Output,
    ) -> Result<(), Failure> {
        let (finding, primary) = sentinels::check(self.place, &self.place.primary()).await;
        tally.show(&self.place.shown(), &[finding], out)?;
        if let Some(address) = primary {
            // By the URL itself: the way that the client takes.
            let findings = self.server(url).await;
            tally.show(&address, &findings, out)?;
        }
        Ok(())
    }
}

/// No connection.
fn unreachable(error: &Error) -> Finding {
    let text = error.to_string();
    let text = text.strip_prefix("session: ").unwrap_or(&text);
    let (found, advice) = text.split_once("; ").unwrap_or((text, "see the server's log"));
    let kind = format!("{:?}", error.kind()).to_ascii_lowercase();
    Finding::problem("reach", found, advice).with("error", Value::from(kind))
}
