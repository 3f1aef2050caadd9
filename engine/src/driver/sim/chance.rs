//! All that is random in a simulation: one seeded generator, and the faults that it deals out.

use std::time::Duration;

/// When a fault strikes. Operations are counted from 0, each kind of fault by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Not at all.
    #[default]
    Never,
    /// Each time with a chance of one in this many.
    OneIn(u32),
    /// This operation and no other.
    Nth(u32),
    /// The operations from the first number up to, and without, the second.
    During(u32, u32),
}

/// What can go wrong around a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A receive brings fewer bytes than there are.
    ShortReceive,
    /// A multishot receive ends although there may be more.
    ReceiveEnds,
    /// The peer resets the connection instead of letting it be read on.
    Reset,
    /// Accepting fails with ECONNABORTED, for that connection only.
    AcceptAborted,
    /// Accepting fails with EMFILE; the connection stays in the queue.
    AcceptFailed,
    /// A multishot accept ends although there may be more.
    AcceptEnds,
    /// A write takes fewer bytes than it was given.
    ShortWrite,
    /// A write fails with EINTR.
    WriteInterrupted,
    /// A write fails with EIO.
    WriteFailed,
    /// A write fails with ENOSPC, whatever room there is.
    WriteRefused,
    /// A segment cannot be created or opened: EIO.
    OpenFailed,
    /// A segment cannot be created or opened: ENOSPC.
    OpenRefused,
    /// A shutdown does not wake the receive that waits on the connection.
    LostWakeUp,
    /// Receiving datagrams fails with ENOMEM.
    UdpFailed,
    /// Fewer bytes go out to a peer than were given.
    ShortTransmit,
    /// The journal can neither be written nor made: ENOSPC.
    JournalRefused,
    /// A write of the journal fails with EINTR.
    JournalInterrupted,
    /// A write of the journal takes fewer bytes than it was given.
    JournalShort,
    /// A write of the journal fails with EIO.
    JournalFailed,
    /// A sync fails: some file has lost what was not on the disk yet.
    SyncFailed,
}

impl Fault {
    const COUNT: usize = 20;
}

/// Which faults strike, and when.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    when: [When; Fault::COUNT],
}

impl Faults {
    /// A world in which nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The same world with one fault more.
    #[must_use]
    pub fn with(mut self, fault: Fault, when: When) -> Self {
        self.when[fault as usize] = when;
        self
    }
}

/// splitmix64, and how often each fault was asked for.
#[derive(Debug)]
pub(super) struct Chance {
    state: u64,
    faults: Faults,
    asked: [u32; Fault::COUNT],
}

impl Chance {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self { state: seed, faults, asked: [0; Fault::COUNT] }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Whether this fault strikes the operation at hand.
    pub(super) fn strikes(&mut self, fault: Fault) -> bool {
        let count = self.asked[fault as usize];
        self.asked[fault as usize] += 1;
        match self.faults.when[fault as usize] {
            When::Never => false,
            When::OneIn(n) => self.one_in(n as usize),
            When::Nth(n) => count == n,
            When::During(from, to) => (from..to).contains(&count),
        }
    }

    /// How long an operation takes: mostly microseconds, now and then many milliseconds.
    pub(super) fn delay(&mut self) -> Duration {
        let micros = match self.below(32) {
            0 => self.below(20_000),
            1..=4 => self.below(1000),
            _ => self.below(50),
        };
        Duration::from_micros(micros as u64)
    }
}

/// A number in which every bit depends on every bit of `value`.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
