//! A hash of all that happens in a simulation, in its order and with its times.

use super::chance::mix;
use crate::handover::ShardId;
use crate::shard::{Command, Completion, Op, Received, ReceivedDatagrams};
use crate::time::Time;

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) hash: u64,
    /// Whose completion or operation is noted, and when.
    shard: u64,
    now: Time,
}

impl Trace {
    fn note(&mut self, words: &[u64], bytes: &[u8]) {
        let time = self.now.since(Time::default()).as_nanos();
        let time = u64::try_from(time).expect("no run lasts 584 years");
        for &word in [time, self.shard].iter().chain(words) {
            self.hash = mix(self.hash ^ word);
        }
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn at(&mut self, shard: ShardId, now: Time) {
        (self.shard, self.now) = (u64::from(shard.0), now);
    }

    pub(super) fn completion(&mut self, shard: ShardId, completion: &Completion, now: Time) {
        self.at(shard, now);
        match completion {
            Completion::Accepted { listener, result, more } => {
                let id = result.as_ref().map_or(u64::MAX, |newcomer| u64::from(newcomer.id.0));
                self.note(&[1, u64::from(listener.0), id, u64::from(*more)], &[]);
            }
            Completion::Received { connection, received, more } => {
                let (kind, bytes) = match received {
                    Received::Data(buf) => (0, &buf[..]),
                    Received::End => (1, &[][..]),
                    Received::NoBuffer => (2, &[][..]),
                    Received::Failed(_) => (3, &[][..]),
                    Received::Cancelled => (4, &[][..]),
                };
                self.note(&[2, u64::from(connection.0), kind, u64::from(*more)], bytes);
            }
            Completion::Datagrams { socket, received, more } => {
                let (kind, bytes) = match received {
                    ReceivedDatagrams::Data(datagrams) => (datagrams.each as u64, &datagrams.buf[..]),
                    ReceivedDatagrams::Empty => (u64::MAX, &[][..]),
                    ReceivedDatagrams::NoBuffer => (u64::MAX - 1, &[][..]),
                    ReceivedDatagrams::Cancelled => (u64::MAX - 2, &[][..]),
                    ReceivedDatagrams::Failed(_) => (u64::MAX - 3, &[][..]),
                };
                self.note(&[8, u64::from(socket.0), kind, u64::from(*more)], bytes);
            }
            Completion::Transmitted { connection, result, .. } => {
                let count = result.as_ref().map_or(u64::MAX, |&count| count as u64);
                self.note(&[9, u64::from(connection.0), count], &[]);
            }
            Completion::Closed(connection) => self.note(&[3, u64::from(connection.0)], &[]),
            Completion::Opened { log, result } => {
                let file = result.as_ref().map_or(u64::MAX, |file| u64::from(file.0));
                self.note(&[4, u64::from(log.0), file], &[]);
            }
            Completion::Written { log, result, .. } => {
                let count = result.as_ref().map_or(u64::MAX, |&count| count as u64);
                self.note(&[5, u64::from(log.0), count], &[]);
            }
            Completion::JournalOpened(result) => {
                let file = result.as_ref().map_or(u64::MAX, |file| u64::from(file.0));
                self.note(&[31, file], &[]);
            }
            Completion::JournalWritten { result, .. } => {
                let count = result.as_ref().map_or(u64::MAX, |&count| count as u64);
                self.note(&[32, count], &[]);
            }
            Completion::Synced { sync, result } => {
                let failed = sync.failed.len() as u64;
                self.note(&[36, u64::from(result.is_ok()), failed, u64::from(sync.journal_failed)], &[]);
            }
            Completion::Sent { from, .. } => self.note(&[7, u64::from(from.0)], &[]),
            Completion::Command(command) => self.note(&[6, u64::from(*command == Command::Drain)], &[]),
        }
    }

    pub(super) fn op(&mut self, shard: ShardId, op: &Op, now: Time) {
        self.at(shard, now);
        match op {
            Op::Accept(id) => self.note(&[10, u64::from(id.0)], &[]),
            Op::AcceptOne(id) => self.note(&[30, u64::from(id.0)], &[]),
            Op::CancelAccept(id) => self.note(&[11, u64::from(id.0)], &[]),
            Op::RefuseNew(id) => self.note(&[12, u64::from(id.0)], &[]),
            Op::AcceptRest(id) => self.note(&[13, u64::from(id.0)], &[]),
            Op::CloseListener(id) => self.note(&[14, u64::from(id.0)], &[]),
            Op::Receive(id) => self.note(&[15, u64::from(id.0)], &[]),
            Op::ReceiveOnce(id) => self.note(&[26, u64::from(id.0)], &[]),
            Op::CancelReceive(id) => self.note(&[16, u64::from(id.0)], &[]),
            Op::Recycle(buf) => self.note(&[17, u64::from(buf.index())], &[]),
            Op::Shutdown(id, side) => self.note(&[18, u64::from(id.0), *side as u64], &[]),
            Op::Close { connection, reset } => self.note(&[19, u64::from(connection.0), u64::from(*reset)], &[]),
            Op::CreateSegment { log, base, .. } => self.note(&[20, u64::from(log.0), base.0], &[]),
            Op::OpenSegment { log, base, length, .. } => self.note(&[21, u64::from(log.0), base.0, length.0], &[]),
            Op::Write { log, file, position, buf } => {
                self.note(&[22, u64::from(log.0), u64::from(file.0), position.0], buf.rest());
            }
            Op::OpenJournal { journal, length } => self.note(&[33, journal.generation, length.0], &[]),
            Op::CreateJournal(journal) => self.note(&[34, journal.generation], &[]),
            Op::WriteJournal { file, position, buf } => {
                self.note(&[35, u64::from(file.0), position.0], buf.rest());
            }
            Op::Sync(sync) => self.note(&[37, sync.segments.len() as u64, u64::from(sync.whole)], &[]),
            Op::CutSegment { base, length, .. } => self.note(&[38, base.0, length.0], &[]),
            Op::RemoveJournals(oldest) => self.note(&[39, oldest.generation], &[]),
            Op::Index { block, .. } => self.note(&[31, block.base.0, block.end.0, u64::from(block.crc32c)], &[]),
            Op::CloseSegment(file) => self.note(&[23, u64::from(file.0)], &[]),
            Op::Send { to, .. } => self.note(&[25, u64::from(to.0)], &[]),
            Op::Transmit { connection, buf } => self.note(&[30, u64::from(connection.0)], buf.rest()),
            Op::Deafen(id) => self.note(&[24, u64::from(id.0)], &[]),
            Op::ReceiveDatagrams { socket, rest } => self.note(&[26, u64::from(socket.0), u64::from(*rest)], &[]),
            Op::DeafenUdp(id) => self.note(&[27, u64::from(id.0)], &[]),
            Op::RecycleDatagrams(buf) => self.note(&[28, u64::from(buf.index())], &[]),
            Op::CloseUdp(id) => self.note(&[29, u64::from(id.0)], &[]),
        }
    }
}
