//! An engine in a process of its own, for benches of the whole: started, asked for its processor time, ended.
//!
//! `engine` and `loadgen` are those beside the bench itself.

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What can go wrong with another process.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A program beside this one, on these cores.
///
/// # Errors
/// Nobody knows where this program is.
pub fn pinned(cores: &str, program: &str) -> Result<Command> {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", cores]).arg(std::env::current_exe()?.with_file_name(program));
    Ok(command)
}

/// An engine that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens, in the order of its listeners.
    pub addresses: Vec<SocketAddr>,
}

impl Server {
    /// Starts `engine run` and waits until it is ready. It is the caller's to name listeners and the data directory.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(cores: &str, name_the_rest: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = pinned(cores, "engine")?;
        command.args(["run", "--admin", "off"]);
        name_the_rest(&mut command);
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().ok_or("no stderr")?).lines();
        let mut server = Self { child, addresses: Vec::new() };
        for line in said.by_ref() {
            let line = line?;
            if let Some((_, address)) = line.split_once("addr=") {
                server.addresses.push(address.parse()?);
            }
            if line.ends_with(" ready") {
                // What it still says is read, or it would wait at its end.
                std::thread::spawn(move || said.for_each(drop));
                return Ok(server);
            }
        }
        Err("the engine does not start".into())
    }

    /// Processor time of its threads whose names begin so, the kernel's workers for them among them if all are asked for.
    /// Threads that have ended are left out.
    ///
    /// # Errors
    /// It has ended.
    pub fn processor_time(&self, name: &str) -> Result<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.starts_with(name) {
                let text = fs::read_to_string(task.join("schedstat"))?;
                nanoseconds += text.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
            }
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Processor time of all of it, threads that have ended and the kernel's workers for it too; in steps of 10 ms.
    ///
    /// # Errors
    /// It has ended.
    pub fn whole_processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // proc_pid_stat(5): behind the name in brackets utime and stime are the 12th and the 13th.
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<std::result::Result<u64, _>>()?;
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }

    /// Anonymous memory in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        Ok(line.split_whitespace().next().unwrap_or_default().parse::<u64>()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// A folder of the bench's own, until it is dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// In another folder, which exists.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(parent: &Path, bench: &str) -> Result<Self> {
        let folder = parent.join(format!("{bench}-{}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
    }
}

/// What came out several times: the median, and the quartiles around it.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The middle one, or between the middle two.
    pub median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    /// Of at least one value.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let (last, middle) = (values.len() - 1, values.len() / 2);
        let median = f64::midpoint(values[last / 2], values[middle]);
        Self { low: values[last / 4], median, high: values[last - last / 4] }
    }
}

impl std::fmt::Display for Spread {
    /// As many digits as are asked for.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.low, self.high)
    }
}

/// How many millions a second.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / 1e6 / time.as_secs_f64()
}
