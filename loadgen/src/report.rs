//! The outcome of a run, for people and for programs.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::account::{Account, Tally};
use crate::payload::Position;
use crate::plan::{Plan, Rate, Stop};
use crate::sender::{ConnectionOutcome, Ending, Outcome};

/// Version of the JSON object: a field that changes its meaning or goes away makes the next one.
pub const SCHEMA: u32 = 1;

const MEGABYTE: f64 = 1e6;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    outcome: Outcome,
    account: Option<Account>,
}

impl Report {
    /// The report of a run and, if there was one, of its account.
    #[must_use]
    pub fn new(plan: Plan, outcome: Outcome, account: Option<Account>) -> Self {
        Self { plan, outcome, account }
    }

    /// The account found nothing wrong, or there was none.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.account.as_ref().is_none_or(|account| account.total().is_clean())
    }

    /// Writes the report to stdout. That nobody reads it is no error.
    ///
    /// # Errors
    ///
    /// When stdout cannot be written for another reason.
    pub fn print(&self, as_json: bool) -> io::Result<()> {
        let text = if as_json { format!("{:#}\n", self.to_json()) } else { self.to_string() };
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// The report as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let tallies: Vec<_> = self.account.iter().flat_map(Account::tallies).map(Some).collect();
        let tallies = tallies.into_iter().chain(std::iter::repeat(None));
        let rows = (0_u32..).zip(&self.outcome.connections).zip(tallies);
        json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "debug_build": cfg!(debug_assertions),
            "run": format!("{:04x}", self.plan.run),
            "arguments": self.arguments(),
            "seconds": self.seconds(),
            "entries_per_second": self.entries_per_second(),
            "megabytes_per_second": self.megabytes_per_second(),
            "bytes_sent": self.sum(|connection| connection.bytes_sent),
            "bytes_acknowledged": self.sum(|connection| connection.bytes_acknowledged),
            "entries_sent": self.sum(|connection| connection.entries_sent),
            "entries_acknowledged": self.sum(|connection| connection.entries_acknowledged),
            "entries_behind": self.sum(|connection| connection.entries_behind),
            "ended": {
                "finished": self.ended(Ending::Finished),
                "by_receiver": self.ended(Ending::ByReceiver),
                "timed_out": self.ended(Ending::TimedOut),
            },
            "account": self.account.as_ref().map(account_json),
            "connections": rows.map(|((index, sent), tally)| connection_json(index, sent, tally)).collect::<Vec<_>>(),
        })
    }

    fn arguments(&self) -> Value {
        let plan = &self.plan;
        let (duration, entries) = match plan.stop {
            Stop::After(duration) => (Some(duration.as_secs_f64()), None),
            Stop::Entries(entries) => (None, Some(entries)),
        };
        json!({
            "target": plan.target.to_string(),
            "rate": match plan.rate { Rate::Max => json!("max"), Rate::PerSecond(rate) => json!(rate) },
            "duration_seconds": duration,
            "entries": entries,
            "connections": plan.connections,
            "tokens": plan.tokens.len(),
            "size_bytes": plan.layout.size(),
            "position": position_name(plan.layout.position()),
            "seed": plan.seed,
            "data": plan.data,
        })
    }

    fn sum(&self, field: impl Fn(&ConnectionOutcome) -> u64) -> u64 {
        self.outcome.connections.iter().map(field).sum()
    }

    fn ended(&self, ending: Ending) -> usize {
        self.outcome.connections.iter().filter(|connection| connection.ending == ending).count()
    }

    fn seconds(&self) -> f64 {
        self.outcome.elapsed.as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn entries_per_second(&self) -> f64 {
        self.sum(|connection| connection.entries_acknowledged) as f64 / self.seconds()
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn megabytes_per_second(&self) -> f64 {
        self.sum(|connection| connection.bytes_acknowledged) as f64 / MEGABYTE / self.seconds()
    }
}

fn account_json(account: &Account) -> Value {
    let mut object = tally_json(&account.total());
    object["clean"] = account.total().is_clean().into();
    object["other_runs"] = account.other_runs.into();
    object["unknown_lines"] = account.unknown.into();
    object
}

fn tally_json(tally: &Tally) -> Value {
    json!({
        "stored": tally.stored,
        "lost": tally.lost,
        "duplicated": tally.duplicated,
        "reordered": tally.reordered,
        "damaged": tally.damaged,
        "wrong_log": tally.wrong_log,
        "beyond": tally.beyond,
    })
}

fn connection_json(index: u32, sent: &ConnectionOutcome, tally: Option<Tally>) -> Value {
    json!({
        "connection": index,
        "ended": ending_name(sent.ending),
        "bytes_sent": sent.bytes_sent,
        "bytes_acknowledged": sent.bytes_acknowledged,
        "entries_sent": sent.entries_sent,
        "entries_acknowledged": sent.entries_acknowledged,
        "entries_behind": sent.entries_behind,
        "account": tally.as_ref().map(tally_json),
    })
}

fn ending_name(ending: Ending) -> &'static str {
    match ending {
        Ending::Finished => "finished",
        Ending::ByReceiver => "by_receiver",
        Ending::TimedOut => "timed_out",
    }
}

fn position_name(position: Position) -> &'static str {
    match position {
        Position::Start => "start",
        Position::Middle => "middle",
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        let rate = match plan.rate {
            Rate::Max => "max".to_owned(),
            Rate::PerSecond(rate) => format!("{rate}/s"),
        };
        if cfg!(debug_assertions) {
            writeln!(f, "debug build: the figures say nothing about speed")?;
        }
        writeln!(
            f,
            "run           {:04x}: {} connections to {}, {} tokens, {} B a line, token at the {}, rate {rate}",
            plan.run,
            plan.connections,
            plan.target,
            plan.tokens.len(),
            plan.layout.size(),
            position_name(plan.layout.position()),
        )?;
        writeln!(
            f,
            "throughput    {:.0} entries/s, {:.1} MB/s in {:.3} s",
            self.entries_per_second(),
            self.megabytes_per_second(),
            self.seconds()
        )?;
        self.fmt_entries(f)?;
        self.account.as_ref().map_or(Ok(()), |account| fmt_account(f, account))
    }
}

impl Report {
    fn fmt_entries(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.sum(|connection| connection.entries_sent);
        let acknowledged = self.sum(|connection| connection.entries_acknowledged);
        writeln!(f, "entries       {sent} sent, {acknowledged} acknowledged by the receiver's TCP")?;
        match self.sum(|connection| connection.entries_behind) {
            0 => {}
            behind => writeln!(f, "behind        {behind} entries were due and not sent")?,
        }
        writeln!(
            f,
            "connections   {} finished, {} ended by the receiver, {} timed out",
            self.ended(Ending::Finished),
            self.ended(Ending::ByReceiver),
            self.ended(Ending::TimedOut)
        )
    }
}

fn fmt_account(f: &mut fmt::Formatter<'_>, account: &Account) -> fmt::Result {
    let total = account.total();
    let verdict = if total.is_clean() { "clean" } else { "NOT CLEAN" };
    writeln!(
        f,
        "account       {verdict}: {} stored, {} lost, {} duplicated, {} reordered, {} damaged, {} in the wrong log",
        total.stored, total.lost, total.duplicated, total.reordered, total.damaged, total.wrong_log
    )?;
    if total.beyond > 0 {
        writeln!(f, "in flight     {} entries stored that were not acknowledged", total.beyond)?;
    }
    if account.other_runs + account.unknown > 0 {
        writeln!(f, "others        {} entries of other runs, {} unknown lines", account.other_runs, account.unknown)?;
    }
    Ok(())
}
