//! Rules that no compiler checks: layers, homes of crates, unsafe islands, licences, and a README that says what is so.
//!
//! The layers are the groups of `mod` lines in `engine/src/lib.rs`, lowest first. A unit test below `#[cfg(test)]` may
//! use what it likes.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use engine::error::Exit;
use engine::metrics::names::{self, Family, Kind};
use engine::wire::Reject;

/// Lines that a file may have; at this length it is two files.
const LINES_MAX: usize = 800;

/// The topmost row that does no I/O.
const CORE: &str = "shard";
/// What only rows above the core may name.
const NOT_IN_CORE: [&str; 8] =
    ["std::fs", "std::net", "std::os", "std::thread", "std::process", "Instant", "SystemTime", "async"];

/// Crates, and the only places in `src/` that name them.
const HOMES: [(&str, &[&str]); 17] = [
    ("io_uring", &["engine/src/driver/uring/"]),
    ("libc", &["engine/src/driver/uring/", "engine/src/sys/", "loadgen/src/sys.rs"]),
    // The process's own limits are the control side's business.
    ("rustix", &["engine/src/driver/uring/", "engine/src/sys/", "engine/src/engine.rs", "loadgen/src/"]),
    ("socket2", &["engine/src/sys/"]),
    ("signal_hook", &["engine/src/engine.rs", "loadgen/src/lib.rs"]),
    ("clap", &["engine/src/cli.rs", "engine/src/cli/", "loadgen/src/cli.rs", "loadgen/src/cli/"]),
    ("strsim", &["engine/src/cli/"]),
    ("toml", &["engine/src/config/"]),
    ("mimalloc", &["engine/src/main.rs", "loadgen/src/main.rs"]),
    ("bytes", &["engine/src/buf/"]),
    // A node id is a UUID too.
    ("uuid", &["engine/src/wire/token.rs", "engine/src/segment/meta.rs", "loadgen/src/tokens.rs"]),
    ("rustls", &["engine/src/tls.rs", "engine/src/tls/", "loadgen/src/tls.rs"]),
    ("axum", &["engine/src/admin/"]),
    ("hyper", &["engine/src/admin/"]),
    ("hyper_util", &["engine/src/admin/"]),
    ("tokio", &["engine/src/admin/", "loadgen/src/sender/"]),
    ("tokio_uring", &["loadgen/src/sender/"]),
];

/// The only places where code may be unsafe.
const ISLANDS: [&str; 8] = [
    "engine/src/scan/x86_64.rs",
    "engine/src/buf/recv.rs",
    "engine/src/buf/fetch.rs",
    "engine/src/driver/uring/",
    "engine/src/sys/socket_option.rs",
    "loadgen/src/sys.rs",
    "benches/src/bin/floor.rs",
    // A counting allocator.
    "engine/tests/no_alloc.rs",
];

/// A source file.
struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Its lines, numbered from 1, without comments and without unit tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests_begin = |line: &str| line == "#[cfg(test)]" || line.starts_with("#[cfg(all(test,");
        let lines = self.text.lines().take_while(move |line| !tests_begin(line));
        (1..).zip(lines).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| match place.strip_suffix('/') {
            Some(_) => self.path.starts_with(place),
            None => self.path == *place,
        })
    }

    /// The module right below the crate's root that it belongs to.
    fn module(&self) -> &str {
        let inside = self.path.strip_prefix("engine/src/").unwrap();
        inside.split('/').next().unwrap().trim_end_matches(".rs")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file beneath a folder of the repository; none if there is no such folder.
fn sources(folder: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&root(), &root().join(folder), &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            // What a fuzzer's build leaves there is nobody's source.
            if !path.ends_with("fuzz/target") {
                collect(root, &path, sources);
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            sources.push(Source { path, text });
        }
    }
}

fn all_sources() -> Vec<Source> {
    ["engine", "loadgen", "benches"].into_iter().flat_map(sources).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with everything that was found, not only the first of it.
#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Whether the line has the word on its own, not as a part of another one.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
}

/// Whether the line names something of the crate, by `use` or by path.
fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let from_root = |at: usize| {
        let before = &line[..at];
        !before.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !before.ends_with("::")
    };
    line.match_indices(&path).any(|(at, _)| from_root(at)) || line.trim_start().starts_with(&format!("use {name};"))
}

/// Rows of modules, lowest first; `main` is above them all.
fn rows() -> Vec<Vec<String>> {
    let lib = read("engine/src/lib.rs");
    let module = |line: &str| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    let groups = lib.split("\n\n").map(|group| group.lines().filter_map(module).collect::<Vec<_>>());
    let mut rows: Vec<_> = groups.filter(|row| !row.is_empty()).collect();
    rows.push(vec!["main".to_owned()]);
    rows
}

fn row_of(rows: &[Vec<String>], module: &str) -> Option<usize> {
    rows.iter().position(|row| row.iter().any(|name| name == module))
}

#[test]
fn modules_import_from_their_own_row_or_below() {
    let rows = rows();
    let mut found = Vec::new();
    for source in sources("engine/src").iter().filter(|source| source.path != "engine/src/lib.rs") {
        let Some(own) = row_of(&rows, source.module()) else {
            found.push(format!("{}: lib.rs has no `pub mod {};`", source.path, source.module()));
            continue;
        };
        for (number, line) in source.code() {
            for used in imported(line) {
                if row_of(&rows, used).is_none_or(|row| row > own) {
                    found.push(format!("{}:{number}: {used} is above {}, or unknown", source.path, source.module()));
                }
            }
        }
    }
    assert_none(&found);
}

/// Modules of the engine that a line of code names.
fn imported(line: &str) -> impl Iterator<Item = &str> {
    // main.rs sees the library from outside.
    let outside = line.trim_start().strip_prefix("use engine::");
    let inside = line.split("crate::").skip(1);
    inside.chain(outside).map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap())
}

#[test]
fn the_core_does_no_io() {
    let rows = rows();
    let top = row_of(&rows, CORE).unwrap();
    let mut found = Vec::new();
    for source in sources("engine/src") {
        if row_of(&rows, source.module()).is_none_or(|row| row > top) {
            continue;
        }
        for (number, line) in source.code() {
            let named = NOT_IN_CORE.iter().filter(|word| has_word(line, word));
            found.extend(named.map(|word| format!("{}:{number}: {word} in the core", source.path)));
        }
    }
    assert_none(&found);
}

#[test]
fn crates_stay_home() {
    let mut found = Vec::new();
    // The floor is a server of its own, in one file.
    let is_product = |source: &&Source| source.path.contains("/src/") && !source.path.starts_with("benches/");
    for source in all_sources().iter().filter(is_product) {
        for (number, line) in source.code() {
            let strays = HOMES.iter().filter(|(name, homes)| names_crate(line, name) && !source.is_in(homes));
            found.extend(strays.map(|(name, homes)| {
                format!("{}:{number}: {name} is named only in {}", source.path, homes.join(", "))
            }));
        }
    }
    assert_none(&found);
}

#[test]
fn unsafe_stays_on_its_islands_and_gives_reasons() {
    let mut found = Vec::new();
    for source in all_sources() {
        let lines: Vec<_> = source.text.lines().collect();
        for (number, line) in (1..).zip(&lines) {
            if line.trim_start().starts_with("//") || !has_word(line, "unsafe") || line.contains('"') {
                continue;
            }
            if !source.is_in(&ISLANDS) {
                found.push(format!("{}:{number}: unsafe outside the islands", source.path));
            } else if !has_reason(&lines[..number - 1], line) {
                found.push(format!("{}:{number}: unsafe without SAFETY above it", source.path));
            }
        }
    }
    assert_none(&found);
}

/// The comment right above, attributes skipped, says why the block is sound, or for a public function what its callers
/// owe. What a trait's function owes is told by the trait.
fn has_reason(above: &[&str], line: &str) -> bool {
    let is_function = has_word(line, "fn");
    if is_function && !has_word(line, "pub") {
        return true;
    }
    let word = if is_function { "# Safety" } else { "SAFETY:" };
    let above = above.iter().rev().map(|line| line.trim_start()).skip_while(|line| line.starts_with("#["));
    let mut comment = above.take_while(|line| line.starts_with("//"));
    comment.any(|line| line.contains(word))
}

#[test]
fn files_say_what_they_are_for_and_stay_short() {
    let mut found = Vec::new();
    for source in all_sources() {
        if !source.text.starts_with("//! ") {
            found.push(format!("{}: does not start with `//!` and what it is for", source.path));
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{}: {lines} lines are more than {LINES_MAX}; make two files of it", source.path));
        }
    }
    assert_none(&found);
}

/// Licences of everything that is built into a binary or a test on this kind of machine.
#[test]
fn licences_are_allowed() {
    let deny = read(".deny.toml");
    let allowed: Vec<&str> =
        deny.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform]);
    let output = cargo.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 10, "{} packages are too few to be all", packages.len());
    let refused = packages.iter().filter_map(|package| {
        let licence = package["license"].as_str().unwrap_or("no licence");
        let name = package["name"].as_str().unwrap();
        (!is_allowed(licence, &allowed)).then(|| format!("{name}: {licence} is not allowed by .deny.toml"))
    });
    assert_none(&refused.collect::<Vec<_>>());
}

/// Judges an SPDX expression whose parentheses, if any, hold alternatives; `/` is the old way to write OR.
fn is_allowed(licence: &str, allowed: &[&str]) -> bool {
    let choice = |text: &str| {
        let text = text.trim().trim_start_matches('(').trim_end_matches(')');
        text.split(" OR ").flat_map(|part| part.split('/')).any(|one| allowed.contains(&one.trim()))
    };
    if licence.contains(" AND ") && licence.contains(" OR ") && !licence.contains('(') {
        // AND binds tighter.
        return licence.split(" OR ").any(|part| part.split(" AND ").all(choice));
    }
    licence.split(" AND ").all(choice)
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "Apache-2.0"];
    let judge = |licence| is_allowed(licence, &allowed);
    assert!(judge("MIT") && judge("Unlicense OR MIT") && judge("Unlicense/MIT") && judge("MIT AND Apache-2.0"));
    assert!(judge("(MIT OR GPL-3.0) AND Apache-2.0") && judge("GPL-3.0 AND BSD-3-Clause OR MIT"));
    assert!(!judge("GPL-3.0") && !judge("MIT AND GPL-3.0") && !judge("(MIT OR Apache-2.0) AND GPL-3.0"));
    assert!(!judge("GPL-3.0 AND MIT OR BSD-3-Clause") && !judge("no licence"));
}

/// The part of the README below a heading, up to the next heading.
fn section(heading: &str) -> String {
    let readme = read("README.md");
    let start = readme.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("README has no heading {heading:?}"));
    let text = readme[start + heading.len() + 2..].split("\n#").next().unwrap();
    text.to_owned()
}

/// Cells of the table rows of a section, the header left out.
fn table(section: &str) -> Vec<Vec<&str>> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.skip(1).filter(|row| !row.starts_with("---")).map(|row| row.split(" | ").map(str::trim).collect()).collect()
}

/// Name and default of every flag and argument, as the README should have them.
fn flags_of(command: &clap::Command) -> Vec<String> {
    let own = command.get_arguments().filter(|argument| argument.get_id() != "help");
    let rows = own.map(|argument| {
        let mut name = argument.get_long().map(|long| format!("--{long}")).unwrap_or_default();
        if argument.get_action().takes_values() && argument.get_possible_values().is_empty() {
            let value = &argument.get_value_names().unwrap()[0];
            write!(name, " {value}").unwrap();
        } else if argument.get_action().takes_values() {
            let values: Vec<_> =
                argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            write!(name, " {}", values.join("\\|")).unwrap();
        }
        let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
        format!(
            "`{}` {}",
            name.trim(),
            if argument.get_action().takes_values() { defaults.join(" ") } else { "off".into() }
        )
    });
    rows.collect()
}

#[test]
fn readme_has_every_flag() {
    let mut cli = engine::cli::Cli::command();
    cli.build();
    let mut found = Vec::new();
    let flags_of_run = cli.find_subcommand("run").map(flags_of);
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        // One table for both.
        if command.get_name() == "check-config" {
            assert_eq!(Some(flags_of(command)), flags_of_run);
            continue;
        }
        let section = section(&format!("### `engine {}`", command.get_name()));
        let readme: Vec<_> = table(&section);
        let flags = flags_of(command);
        let named = readme.len() == flags.len();
        for (row, flag) in readme.iter().zip(&flags) {
            // Where clap has no default the README explains what happens without the flag.
            let (name, default) = flag.rsplit_once("` ").unwrap();
            let same = row[0] == format!("{name}`") && (default.is_empty() || row[1].trim_matches('`') == default);
            if !same || row.len() != 3 {
                found.push(format!("README, engine {}: {row:?}, clap has {flag}", command.get_name()));
            }
        }
        if !named {
            found.push(format!("README, engine {}: {} rows for {flags:#?}", command.get_name(), readme.len()));
        }
    }
    assert_none(&found);
}

/// Flags of `run` as keys of the configuration file, under their tables.
#[test]
fn the_example_file_has_every_key_with_its_default() {
    let mut cli = engine::cli::Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").unwrap();
    let flags = run.get_arguments().filter(|argument| !["help", "config"].contains(&argument.get_id().as_str()));
    let mut wanted: Vec<String> = flags
        .map(|argument| {
            let table = argument.get_help_heading().map(|heading| format!("{}.", heading.to_lowercase()));
            let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
            let default = if argument.get_action().takes_values() { defaults.join(",") } else { "false".into() };
            format!("{}{} = {default}", table.unwrap_or_default(), argument.get_id())
        })
        .collect();
    let (example, mut table) = (read("engine/engine.toml"), String::new());
    for line in example.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with([' ', '#'])) {
        if let Some(name) = line.strip_prefix('[') {
            table = name.replace(']', ".");
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !table.starts_with('[')) {
            let value = value.trim_matches('"');
            let known = [format!("{table}{key} = {value}"), format!("{table}{key} = ")];
            match wanted.iter().position(|wanted| known.contains(wanted)) {
                Some(found) => drop(wanted.remove(found)),
                None => wanted.push(format!("{table}{key} = {value}, which is no flag or not its default")),
            }
        }
    }
    assert_none(&wanted);
}

#[test]
fn readme_has_every_exit_code() {
    // A new code does not compile here until it has its place below.
    let known = |exit: Exit| match exit {
        Exit::Done | Exit::Unexpected | Exit::Usage | Exit::Environment | Exit::Damage => (exit as u8).to_string(),
    };
    let exits = [Exit::Done, Exit::Unexpected, Exit::Usage, Exit::Environment, Exit::Damage].map(known);
    let section = section("## Exit codes");
    assert_eq!(table(&section).iter().map(|row| row[0]).collect::<Vec<_>>(), exits);
}

#[test]
fn readme_has_every_reason_to_reject() {
    let section = section("### The summary");
    let reasons = Reject::ALL.map(|reason| format!("`rejected.{}`", reason.name()));
    let rows = table(&section);
    let told: Vec<_> = rows.iter().map(|row| row[0]).filter(|name| name.starts_with("`rejected.")).collect();
    assert_eq!(told, reasons);
}

/// In the order of `/metrics`, under the names of their samples.
#[test]
fn readme_has_every_metric() {
    let sample = |family: &Family| match family.kind {
        Kind::Counter => format!("`{}_total`", family.name),
        Kind::Info => format!("`{}_info`", family.name),
        Kind::Gauge | Kind::Histogram | Kind::Unknown => format!("`{}`", family.name),
    };
    let section = section("### The metrics");
    let told: Vec<_> = table(&section).iter().map(|row| (row[0].to_owned(), row[2].to_owned())).collect();
    let known: Vec<_> = names::ALL.iter().map(|family| (sample(family), family.help.to_owned())).collect();
    assert_eq!(told, known);
}

/// The code map leads to every file of the engine.
#[test]
fn readme_maps_the_code() {
    let map = section("### Code map");
    let missing = sources("engine/src").into_iter().filter_map(|source| {
        let file = source.path.strip_prefix("engine/src/").unwrap();
        let name = file.strip_suffix("/mod.rs").map_or_else(|| file.to_owned(), |folder| format!("{folder}/"));
        (!map.split_whitespace().any(|word| word == name)).then(|| format!("README, Code map: no {name}"))
    });
    assert_none(&missing.collect::<Vec<_>>());
}
