//! Recovery as a step of the start: what it found is said, and a full disk is waited for.

use std::time::{Duration, SystemTime};

use crate::diag::{Level, quoted, say};
use crate::error::{Damage, EngineError, RecoverError, StartError, shown};
use crate::limits::RECOVERY_RETRY;
use crate::route::Ownership;
use crate::segment::Meta;
use crate::shard::JournalStart;
use crate::store::journals::{self, Beginning};
use crate::store::recover::{Circumstances, Recovered, recover_unless};
use crate::sys::{DataDir, host};

/// Makes the directory ready and begins the journals of all shards. While the disk has no room for that, tries again.
///
/// # Errors
/// Damage; the system's refusals; `stopped` has become true.
pub(super) fn make_ready(
    data: &DataDir,
    meta: Meta,
    ownership: &Ownership,
    accept_loss: bool,
    stopped: &mut dyn FnMut() -> bool,
) -> Result<(Recovered, Vec<JournalStart>), EngineError> {
    let mut told = false;
    loop {
        match attempt(data, ownership, accept_loss, stopped) {
            Err(RecoverError::File(error)) if error.wants_room() => {
                if !told {
                    say(Level::Error, format_args!("recovery waits for room error={}", quoted(&error)));
                    told = true;
                    // It is there for this. Where it cannot go, there is still no room.
                    let _removed = data.remove_reserve();
                    continue;
                }
                if stopped() {
                    return Err(RecoverError::Stopped.into());
                }
                std::thread::sleep(RECOVERY_RETRY);
            }
            done => {
                let (recovered, starts) = done?;
                data.upgrade(meta).map_err(|error| {
                    StartError::new("META", "cannot be written; make room, then start again").because(error)
                })?;
                tell(&recovered);
                return Ok((recovered, starts));
            }
        }
    }
}

fn attempt(
    data: &DataDir,
    ownership: &Ownership,
    accept_loss: bool,
    stopped: &mut dyn FnMut() -> bool,
) -> Result<(Recovered, Vec<JournalStart>), RecoverError> {
    let boot = host::boot_id();
    let journals = journals::read(data)?;
    let recovered = recover_unless(data, &journals, Circumstances { boot, accept_loss }, stopped)?;
    let beginning = Beginning { boot, epoch_micros: unix_micros() };
    let starts = journals::begin(data, &journals, ownership, &recovered.logs, beginning)?;
    Ok((recovered, starts))
}

fn tell(recovered: &Recovered) {
    for Damage { path, expected, found } in &recovered.alarms {
        say(
            Level::Error,
            format_args!(
                "damage found path={} expected={} found={}",
                quoted(&shown(path)),
                quoted(expected),
                quoted(found)
            ),
        );
    }
    if recovered.damaged_journals > 0 {
        let damaged = recovered.damaged_journals;
        say(Level::Error, format_args!("journals are damaged, segments are taken by their text journals={damaged}"));
    }
    say(
        Level::Info,
        format_args!(
            "recovered logs={} segments={} bytes={} quarantined_files={} quarantined_bytes={} unknown={} \
             unindexed_bytes={} unverified={} alarms={}",
            recovered.logs.len(),
            recovered.segments,
            recovered.bytes,
            recovered.quarantined_files,
            recovered.quarantined_bytes,
            recovered.unknown,
            recovered.unindexed_bytes,
            recovered.unverified,
            recovered.alarms.len()
        ),
    );
}

fn unix_micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
