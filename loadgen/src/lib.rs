//! A sender of Token TCP lines that keeps an exact account of every entry.
//!
//! ```text
//!  flags ──cli──► Plan ──► sender ──Outcome──► account ◄──entries── logs ◄── DATA/<token>/<base>.log
//!                   │        │ payload: lines     │ payload: entries
//!                   │        │ tcp_info: acked    │
//!                   └────────┴─────── report ◄────┘──► table or JSON, exit code
//! ```
//!
//! What a receiver owes is what its kernel acknowledged. So the sender asks its own sockets how many bytes the peer
//! acknowledged ([`tcp_info`]), and the account demands every whole line among them from the segment files: once, in
//! order, undamaged, in the right log. That holds for a receiver that ends connections in mid-run as well.
//!
//! | module | for |
//! | --- | --- |
//! | [`cli`] | the command line as typed; the only one that knows clap |
//! | [`plan`] | the validated run: schedule, tokens, who sends what |
//! | [`payload`] | bytes of a line, rendered in place; parsing an entry back |
//! | [`sender`] | connections and the loop that keeps them busy; the only one that knows tokio-uring |
//! | [`tcp_info`] | what the kernel knows of a connection; the only unsafe code |
//! | [`logs`] | reads a data directory that may still grow |
//! | [`account`] | compares what was stored with what was acknowledged; no I/O |
//! | [`report`] | the outcome for people and for programs |
//! | [`error`] | what can stop a run, and the exit codes |

pub mod account;
pub mod cli;
pub mod error;
pub mod logs;
pub mod payload;
pub mod plan;
pub mod report;
pub mod sender;
pub mod tcp_info;

pub use error::{Exit, RunError};

use account::Account;
use cli::Command;
use plan::Plan;
use report::Report;

/// Executes what was asked for on the command line and prints its report.
///
/// # Errors
///
/// When the run could not be made; faults that the account found are an exit code, not an error.
pub fn execute(command: &Command) -> Result<Exit, RunError> {
    let Command::Run { plan, json } = command;
    let report = run(plan)?;
    report.print(*json).map_err(|error| RunError::Unexpected("cannot write the report".into(), error))?;
    Ok(if report.is_clean() { Exit::Done } else { Exit::Account })
}

/// One run: sends, and settles the account if the plan names a data directory.
///
/// # Errors
///
/// When a connection or the ring cannot be made, or the data directory cannot be read.
pub fn run(plan: &Plan) -> Result<Report, RunError> {
    let outcome = sender::run(plan)?;
    let Some(data) = &plan.data else { return Ok(Report::new(plan.clone(), outcome, None)) };
    let mut account = Account::new(plan, &outcome);
    logs::follow(data, plan, &mut account)
        .map_err(|error| RunError::Unexpected(format!("cannot read {}", data.display()), error))?;
    Ok(Report::new(plan.clone(), outcome, Some(account)))
}
