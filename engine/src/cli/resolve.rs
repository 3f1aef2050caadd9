//! Command line, environment and configuration file together: a flag wins over `ENGINE_*`, which wins over the file,
//! which wins over the default.
//!
//! ```text
//!  file      [limits] tokens_max = 5   ─┐
//!  variable  ENGINE_TOKENS_MAX=5       ─┼─► --tokens-max=5 ─► the flags' own parsers ─► RunFlags ─► Config
//!  typed     --tokens-max 5            ─┘
//! ```
//! What variables and keys there are is what clap knows of the flags: one more flag is one more of each.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::value::Size;
use super::wrong::explain;
use super::{ListenArgs, RunArgs};
use crate::config::file::{self, ConfigFile, Entry, Kind, ListenTable};
use crate::config::{Config, Listen, Origin, Resolved, RunFlags, Setting};
use crate::error::{ConfigError, shown};
use crate::sys::host;

/// Flags that say where to listen. They are one setting: who gives one of them, replaces what those below say of all,
/// `[[listen]]` too.
const LISTENERS: [&str; 3] = ["tcp", "udp", "tls"];
/// The one flag that is no key.
const CONFIG: &str = "config";
const HELP: &str = "engine run --help";

impl RunArgs {
    /// What is typed, with what environment and configuration file say besides.
    ///
    /// # Errors
    /// The first setting that is wrong, named as the operator gave it.
    pub fn resolve(&self) -> Result<Resolved, ConfigError> {
        resolve(&self.typed, |name| std::env::var_os(name), file::read)
    }

    /// The same for people: defaults that depend on limits and disk of this host are those of this host.
    ///
    /// # Errors
    /// The first setting that is wrong, named as the operator gave it.
    pub fn resolve_on_this_host(&self) -> Result<Resolved, ConfigError> {
        let mut resolved = self.resolve()?;
        let descriptors = resolved.config.descriptors(host::descriptor_limit()).ok();
        let of_host = [
            ("connections_max", descriptors.map(|descriptors| descriptors.connections.to_string())),
            ("disk_free_min", resolved.config.disk_free_min().ok().map(|bytes| Size(bytes).to_string())),
        ];
        for setting in resolved.settings.iter_mut().filter(|setting| setting.origin == Origin::Default) {
            let known = of_host.iter().find(|(name, _)| *name == setting.name).and_then(|(_, value)| value.clone());
            setting.value = known.unwrap_or_else(|| std::mem::take(&mut setting.value));
        }
        Ok(resolved)
    }
}

/// What somebody other than the command line says of a flag.
#[derive(Clone, Debug)]
struct Given {
    key: String,
    arguments: Vec<OsString>,
    origin: Origin,
}

fn resolve(
    typed: &[OsString],
    variable: impl Fn(&str) -> Option<OsString>,
    read: impl Fn(&Path) -> Result<ConfigFile, ConfigError>,
) -> Result<Resolved, ConfigError> {
    let flags = Flags::<RunArgs>::new();
    let on_line = flags.parse(typed)?;
    let is_typed = |key: &str| on_line.value_source(key) == Some(ValueSource::CommandLine);
    // An empty one is as good as none: that is how many tools unset them.
    let said = |key: &str| variable(&variable_of(key)).filter(|value| !value.is_empty());
    let mut from_variables = Vec::new();
    for key in flags.keys() {
        if let Some(value) = said(&key) {
            from_variables.push(flags.of_variable(&key, variable_of(&key), &value)?);
        }
    }
    from_variables.retain(|given| !is_typed(&given.key));
    let path = on_line.get_one::<PathBuf>(CONFIG).cloned().or_else(|| said(CONFIG).map(PathBuf::from));
    let file = match path {
        Some(path) => Some((shown(&path), read(&path)?)),
        None => None,
    };
    let (mut from_file, mut listen) = (Vec::new(), Vec::new());
    if let Some((name, ConfigFile { entries, tables, listen: listeners })) = &file {
        flags.check_tables(name, tables)?;
        from_file = flags.of_file(name, entries)?;
        listen = listeners.iter().map(|table| listener(name, table)).collect::<Result<Vec<_>, _>>()?;
    }
    let by_line = LISTENERS.into_iter().any(is_typed);
    let by_variable = from_variables.iter().any(Given::is_listener);
    from_variables.retain(|given| !(by_line && given.is_listener()));
    if by_line || by_variable {
        from_file.retain(|given| !given.is_listener());
        listen.clear();
    }
    let in_variables: HashSet<&str> = from_variables.iter().map(|given| &given.key[..]).collect();
    from_file.retain(|given| !is_typed(&given.key) && !in_variables.contains(&given.key[..]));
    let given: Vec<Given> = from_variables.into_iter().chain(from_file).collect();
    // What is typed comes last: behind a `--` of it nothing else would be a flag.
    let all = given.iter().flat_map(|given| &given.arguments).chain(typed);
    let matches = flags.parse(all)?;
    let origin = |key: &str| match given.iter().find(|given| given.key == key) {
        _ if is_typed(key) => Origin::Flag,
        Some(given) => given.origin.clone(),
        None => Origin::Default,
    };
    let mut run = RunFlags::from(RunArgs::from_arg_matches(&matches).map_err(|error| on_command_line(&error))?);
    run.listen = listen.iter().map(|(listen, _)| listen.clone()).collect();
    let mut settings = flags.settings(&matches, &origin);
    settings.extend(listen.iter().map(|(_, setting)| setting.clone()));
    let config = Config::try_from(run).map_err(|error| Resolved::named(&settings, error))?;
    for setting in settings.iter_mut().filter(|setting| setting.origin == Origin::Default) {
        let replaced = !listen.is_empty() && LISTENERS.contains(&&setting.name[..]);
        let implied = if replaced { Some("none".to_owned()) } else { config.implied(&setting.name) };
        setting.value = implied.unwrap_or_else(|| std::mem::take(&mut setting.value));
    }
    Ok(Resolved { config, settings })
}

impl Given {
    fn is_listener(&self) -> bool {
        LISTENERS.contains(&&self.key[..])
    }
}

fn on_command_line(error: &clap::Error) -> ConfigError {
    let told = explain(error, HELP);
    ConfigError { flag: told.subject.into(), problem: told.problem }
}

/// What clap knows of some flags.
struct Flags<A> {
    command: Command,
    args: std::marker::PhantomData<A>,
}

impl<A: Args> Flags<A> {
    fn new() -> Self {
        let command = A::augment_args(Command::new("engine").no_binary_name(true).disable_help_flag(true));
        Self { command, args: std::marker::PhantomData }
    }

    fn parse(
        &self,
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<ArgMatches, ConfigError> {
        self.command.clone().try_get_matches_from(arguments).map_err(|error| on_command_line(&error))
    }

    fn keys(&self) -> impl Iterator<Item = String> {
        self.command.get_arguments().map(|arg| arg.get_id().to_string())
    }

    fn arg(&self, key: &str) -> Option<&Arg> {
        self.command.get_arguments().find(|arg| arg.get_id() == key)
    }

    /// What is wrong with one value of a flag, if something is.
    fn problem(&self, argument: &OsStr) -> Option<String> {
        let error = self.command.clone().try_get_matches_from([argument]).err()?;
        // That others are missing is said when all are there.
        let is_about_it = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
        is_about_it.then(|| explain(&error, HELP).problem)
    }
}

impl<A: Args> Flags<A> {
    /// A variable; several values are separated by commas.
    fn of_variable(&self, key: &str, name: String, value: &OsStr) -> Result<Given, ConfigError> {
        let arg = self.arg(key).expect("keys come from the same flags");
        let wrong = |problem| ConfigError { flag: name.clone().into(), problem };
        let arguments = if is_switch(arg) {
            match value.to_str() {
                Some("true" | "1") => vec![argument(key, None)],
                Some("false" | "0") => Vec::new(),
                _ => {
                    let problem = format!("{} is not possible; give true or false", value.to_string_lossy());
                    return Err(wrong(problem));
                }
            }
        } else if is_repeatable(arg) {
            let Some(text) = value.to_str() else { return Err(wrong("is not UTF-8; give text".to_owned())) };
            text.split(',').map(|part| argument(key, Some(part.trim().as_ref()))).collect()
        } else {
            vec![argument(key, Some(value))]
        };
        match arguments.iter().find_map(|argument| self.problem(argument)) {
            Some(problem) => Err(wrong(problem)),
            None => Ok(Given { key: key.to_owned(), arguments, origin: Origin::Environment(name) }),
        }
    }

    /// The keys of a file; each stands above all tables or in its own one.
    fn of_file(&self, name: &str, entries: &[Entry]) -> Result<Vec<Given>, ConfigError> {
        let mut given: Vec<Given> = Vec::new();
        for entry in entries {
            let place = format!("{name}:{}", entry.line);
            let wrong = |problem| ConfigError { flag: format!("{place}: {}", entry.key).into(), problem };
            let arg = self.arg(&entry.key).filter(|arg| arg.get_id() != CONFIG);
            let arg = arg.ok_or_else(|| wrong(self.no_such_key(entry)))?;
            if let Some(table) = entry.table.as_ref().filter(|table| table_of(arg).as_ref() != Some(table)) {
                return Err(wrong(format!("does not belong in [{table}]; the nearest is {}", with_table(arg))));
            }
            if let Some(twice) = given.iter().find(|given| given.key == entry.key) {
                return Err(wrong(format!("is in {} too; give it once", twice.origin)));
            }
            let arguments = self.arguments(name, entry, arg)?;
            given.push(Given { key: entry.key.clone(), arguments, origin: Origin::File(place) });
        }
        Ok(given)
    }

    /// A table that nothing belongs to may be a mistyped one, also while it is empty.
    fn check_tables(&self, name: &str, tables: &[(String, usize)]) -> Result<(), ConfigError> {
        let known: Vec<String> = self.command.get_arguments().filter_map(table_of).collect();
        let Some((table, line)) = tables.iter().find(|(table, _)| !known.contains(table)) else { return Ok(()) };
        let distance = |known: &&String| strsim::damerau_levenshtein(known, table);
        let nearest = known.iter().min_by_key(distance).expect("some flags have a table");
        let problem = format!("no such table; the nearest is [{nearest}]");
        Err(ConfigError { flag: format!("{name}:{line}: [{table}]").into(), problem })
    }

    fn arguments(&self, name: &str, entry: &Entry, arg: &Arg) -> Result<Vec<OsString>, ConfigError> {
        let key = &entry.key;
        let wrong = |line, problem| ConfigError { flag: format!("{name}:{line}: {key}").into(), problem };
        if entry.is_list && !is_repeatable(arg) {
            return Err(wrong(entry.line, "a list is not possible; give one value".to_owned()));
        }
        let mut arguments = Vec::new();
        for value in &entry.values {
            let text = &value.text;
            if is_switch(arg) {
                if value.kind != Kind::Bool {
                    return Err(wrong(
                        value.line,
                        format!("{text:?} is not possible; give true or false, without quotes"),
                    ));
                }
                arguments.extend((text == "true").then(|| argument(key, None)));
                continue;
            }
            if is_path(arg) && value.kind != Kind::Text {
                return Err(wrong(value.line, format!("{text} is no path; give it in quotes")));
            }
            let argument = argument(key, Some(text.as_ref()));
            if let Some(problem) = self.problem(&argument) {
                return Err(wrong(value.line, problem));
            }
            arguments.push(argument);
        }
        Ok(arguments)
    }

    fn no_such_key(&self, entry: &Entry) -> String {
        let keys: Vec<&Arg> = self.command.get_arguments().filter(|arg| arg.get_id() != CONFIG).collect();
        let distance = |arg: &&&Arg| strsim::damerau_levenshtein(arg.get_id().as_str(), &entry.key);
        let nearest = keys.iter().min_by_key(distance).expect("there are flags");
        format!("no such key; the nearest is {}", with_table(nearest))
    }

    fn settings(&self, matches: &ArgMatches, origin: &impl Fn(&str) -> Origin) -> Vec<Setting> {
        let setting = |arg: &Arg| {
            let key = arg.get_id().as_str();
            Setting { name: key.to_owned(), value: text_of(arg, matches), origin: origin(key) }
        };
        self.command.get_arguments().map(setting).collect()
    }
}

/// A `[[listen]]`, and the setting that it is.
fn listener(name: &str, table: &ListenTable) -> Result<(Listen, Setting), ConfigError> {
    let flags = Flags::<ListenArgs>::new();
    let place = format!("{name}:{}", table.line);
    let given = flags.of_file(name, &table.entries)?;
    let has = |key: &str| given.iter().any(|given| given.key == key);
    if let Some(missing) = ["proto", "addr"].into_iter().find(|key| !has(key)) {
        let example = "a listener has proto = \"tcp\" and addr = \"127.0.0.1:10000\", or the like";
        return Err(ConfigError { flag: format!("{place}: {missing}").into(), problem: format!("missing; {example}") });
    }
    let matches = flags.parse(given.iter().flat_map(|given| &given.arguments))?;
    let args = ListenArgs::from_arg_matches(&matches).map_err(|error| on_command_line(&error))?;
    let told = table.entries.iter().map(|entry| {
        let values: Vec<&str> = entry.values.iter().map(|value| value.text.as_str()).collect();
        format!("{}={}", entry.key, values.join(","))
    });
    let value = told.collect::<Vec<_>>().join(" ");
    let setting = Setting { name: "[[listen]]".to_owned(), value, origin: Origin::File(place.clone()) };
    let listen = Listen {
        proto: args.proto.into(),
        address: args.addr,
        framing: args.framing.map(Into::into),
        cert: args.cert,
        key: args.key,
        client_ca: args.client_ca,
        client_certs: args.client_certs.map(Into::into),
        proxy_from: args.proxy_from,
        place: Some(place),
    };
    Ok((listen, setting))
}

fn variable_of(key: &str) -> String {
    format!("ENGINE_{}", key.to_ascii_uppercase())
}

/// `--key=value`, or `--key` alone.
fn argument(key: &str, value: Option<&OsStr>) -> OsString {
    let mut argument = OsString::from(format!("--{}", key.replace('_', "-")));
    if let Some(value) = value {
        argument.push("=");
        argument.push(value);
    }
    argument
}

fn is_switch(arg: &Arg) -> bool {
    !arg.get_action().takes_values()
}

fn is_repeatable(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

fn is_path(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == std::any::TypeId::of::<PathBuf>()
}

/// The table of the file that a key belongs to; `None`: above all tables.
fn table_of(arg: &Arg) -> Option<String> {
    arg.get_help_heading().map(str::to_ascii_lowercase)
}

fn with_table(arg: &Arg) -> String {
    match table_of(arg) {
        Some(table) => format!("{} in [{table}]", arg.get_id()),
        None => arg.get_id().to_string(),
    }
}

/// What a flag says; without a value or a default, what its help says of that.
fn text_of(arg: &Arg, matches: &ArgMatches) -> String {
    let key = arg.get_id().as_str();
    if is_switch(arg) {
        return matches.get_flag(key).to_string();
    }
    if let Some(values) = matches.get_raw(key) {
        return values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",");
    }
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let told = help.split_once("[default: ").and_then(|(_, rest)| rest.strip_suffix(']'));
    told.unwrap_or("none").to_owned()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::framing::Framing;

    /// Resolves what is typed, these variables, and a file of this text if it is typed that there is one.
    fn resolved(typed: &[&str], variables: &[(&str, &str)], text: &str) -> Result<Resolved, ConfigError> {
        let typed: Vec<OsString> = typed.iter().map(Into::into).collect();
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        resolve(&typed, variable, |path| file::parse(&shown(path), text))
    }

    fn of_file(text: &str) -> Result<Resolved, ConfigError> {
        resolved(&["--config", "f.toml"], &[], text)
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        of_file(text).expect_err("wrong on purpose").to_string()
    }

    fn setting<'a>(resolved: &'a Resolved, name: &str) -> &'a Setting {
        resolved.settings.iter().find(|setting| setting.name == name).expect("there is one")
    }

    #[test]
    fn flags_win_over_variables_over_the_file_over_defaults() {
        let text = "[storage]\nlinger = '1ms'\n[limits]\ntokens_max = 1\nhandshakes_max = 1\n";
        let variables = [("ENGINE_LINGER", "2ms"), ("ENGINE_TOKENS_MAX", "2"), ("ENGINE_UDP_CREATES", "true")];
        let typed = ["--config", "f.toml", "--linger", "3ms"];
        let all = resolved(&typed, &variables, text).expect("allowed");
        let config = &all.config;
        assert_eq!((config.linger, config.tokens_max, config.handshakes_max), (Duration::from_millis(3), 2, 1));
        assert!(config.udp_creates);
        let origins =
            ["linger", "tokens_max", "handshakes_max", "shards"].map(|name| setting(&all, name).origin.to_string());
        assert_eq!(origins, ["flag", "environment ENGINE_TOKENS_MAX", "f.toml:5", "default"]);
        assert_eq!(setting(&all, "config").value, "f.toml");
        assert_eq!(setting(&all, "segment_bytes").value, "256MiB");
        assert_eq!(setting(&all, "client_ca").value, "none");
        assert_eq!(setting(&all, "tcp").value, "127.0.0.1:10000");
    }

    #[test]
    fn the_file_may_be_named_by_a_variable_and_an_empty_variable_is_none() {
        let variables = [("ENGINE_CONFIG", "f.toml"), ("ENGINE_TOKENS_MAX", "")];
        let all = resolved(&[], &variables, "tokens_max = 7\nopen = true\n").expect("allowed");
        assert_eq!(all.config.tokens_max, 7);
        let switched = resolved(&["--config", "f.toml"], &[("ENGINE_UDP_CREATES", "0")], "udp_creates = true\n");
        let switched = switched.expect("allowed");
        assert!(!switched.config.udp_creates);
        assert_eq!(setting(&switched, "udp_creates").origin.to_string(), "environment ENGINE_UDP_CREATES");
    }

    #[test]
    fn who_names_a_listener_names_them_all() {
        let text = "udp = ['127.0.0.1:1']\n[[listen]]\nproto = 'tcp'\naddr = '127.0.0.1:2'\nframing = 'octet'\n";
        let addresses = |typed: &[&str], variables: &[(&str, &str)]| {
            let config = resolved(&[&["--config", "f.toml"], typed].concat(), variables, text).expect("allowed").config;
            let port = |address: &SocketAddr| address.port();
            let tcp: Vec<u16> = config.tcp.iter().map(|listen| listen.address.port()).collect();
            (tcp, config.udp.iter().map(port).collect::<Vec<_>>())
        };
        assert_eq!(addresses(&[], &[]), (vec![2], vec![1]));
        assert_eq!(addresses(&["--tcp", "127.0.0.1:3"], &[]), (vec![3], vec![]));
        let variables = [("ENGINE_UDP", "127.0.0.1:4, 127.0.0.1:5")];
        assert_eq!(addresses(&[], &variables), (vec![], vec![4, 5]));
        assert_eq!(addresses(&["--tcp", "127.0.0.1:3"], &variables), (vec![3], vec![]));
        let config = of_file(text).expect("allowed");
        assert_eq!(config.config.tcp[0].spoken.framing, Framing::Octet);
        let listen = setting(&config, "[[listen]]");
        assert_eq!(
            (&listen.value[..], listen.origin.to_string()),
            ("proto=tcp addr=127.0.0.1:2 framing=octet", "f.toml:2".into())
        );
        assert_eq!(setting(&config, "tcp").value, "none");
    }

    #[test]
    fn unknown_keys_name_file_line_and_the_nearest_key() {
        assert_eq!(
            refused("\ntoken_max = 5"),
            "f.toml:2: token_max: no such key; the nearest is tokens_max in [limits]"
        );
        assert_eq!(refused("[limits]\n\ndate = 'x'"), "f.toml:3: date: no such key; the nearest is data");
        assert!(refused("config = 'x'").starts_with("f.toml:1: config: no such key; the nearest is "));
        assert_eq!(
            refused("[storage]\ntokens_max = 5"),
            "f.toml:2: tokens_max: does not belong in [storage]; the nearest is tokens_max in [limits]"
        );
        assert_eq!(refused("[[listen]]\nproto = 'tcp'\nadr = 'x'"), "f.toml:3: adr: no such key; the nearest is addr");
        assert_eq!(refused("\n[limts]"), "f.toml:2: [limts]: no such table; the nearest is [limits]");
        assert!(refused("[limits]\ndata = 'x'").starts_with("f.toml:2: data: does not belong in [limits];"));
    }

    #[test]
    fn wrong_values_name_line_value_and_what_is_allowed() {
        for (text, says) in [
            ("\ntokens_max = 'many'", "f.toml:2: tokens_max: \"many\" is no count; give a whole number"),
            ("tokens_max = -1", "f.toml:1: tokens_max: \"-1\" is no count; give a whole number"),
            ("tokens_max = true", "f.toml:1: tokens_max: \"true\" is no count; give a whole number"),
            ("tokens_max = [5]", "f.toml:1: tokens_max: a list is not possible; give one value"),
            ("oversize = 'keep'", "f.toml:1: oversize: keep is not possible; give split, truncate"),
            ("linger = 5", "f.toml:1: linger: 5 is no time; give a number with ms s m h d"),
            ("open = 'yes'", "f.toml:1: open: \"yes\" is not possible; give true or false, without quotes"),
            ("data = 5", "f.toml:1: data: 5 is no path; give it in quotes"),
            ("data = ''", "f.toml:1: data: nothing is not possible; give a value"),
            ("tcp = ['127.0.0.1:1',\n 'here']", "f.toml:2: tcp: \"here\" is no address; give"),
            ("linger = '1ms'\n[storage]\nlinger = '2ms'", "f.toml:3: linger: is in f.toml:1 too; give it once"),
            ("linger = '1h'", "f.toml:1: linger: 3600s is too long; give 10s or less"),
            ("tcp = ['0.0.0.0:1']", "f.toml:1: tcp: 0.0.0.0:1 is reachable from other hosts"),
            ("\n[[listen]]\naddr = '127.0.0.1:1'", "f.toml:2: proto: missing; a listener has"),
            ("[[listen]]\nproto = 'sctp'\naddr = ''", "f.toml:2: proto: sctp is not possible; give tcp, udp, tls"),
            ("[[listen]]\nproto = 'tls'\naddr = '127.0.0.1:1'", "f.toml:1: addr: needs a certificate; add cert"),
        ] {
            assert!(refused(text).starts_with(says), "{}", refused(text));
        }
        let wrong = |name, value| resolved(&[], &[(name, value)], "").expect_err("wrong on purpose").to_string();
        assert_eq!(wrong("ENGINE_TOKENS_MAX", "many"), "ENGINE_TOKENS_MAX: \"many\" is no count; give a whole number");
        assert_eq!(wrong("ENGINE_TOKENS_MAX", "0"), "ENGINE_TOKENS_MAX: 0 would store nothing; give 1 or more");
        assert_eq!(wrong("ENGINE_OPEN", "yes"), "ENGINE_OPEN: yes is not possible; give true or false");
        assert!(wrong("ENGINE_TCP", "127.0.0.1:1,x").starts_with("ENGINE_TCP: \"x\" is no address;"));
        // What a flag hides is looked at all the same.
        assert!(resolved(&["--config", "f.toml", "--tokens-max", "5"], &[], "tokens_max = 'x'").is_err());
    }

    /// Pieces of configuration files in any order, cut and changed anywhere.
    #[test]
    fn whatever_a_file_holds_it_is_taken_or_a_line_is_named() {
        const PIECES: [&str; 28] = [
            "data = 'x'\n",
            "tokens_max = 5\n",
            "[limits]\n",
            "[storage]\n",
            "[[listen]]\n",
            "proto = \"tcp\"\n",
            "proto = 'udp'\n",
            "addr = '127.0.0.1:0'\n",
            "framing = 'auto'\n",
            "udp = ['[::1]:5', ]\n",
            "open = true\n",
            "linger = '5ms'\n",
            "line_bytes_max = 1_000\n",
            "[limits.tokens]\n",
            "listen = 5\n",
            "a.b.c = {d = 1, e = []}\n",
            "oversize = \"\"\"split\"\"\"\n",
            "shards = 0x10\n",
            "# comment\n",
            "admin = 1979-05-27T07:32:00Z\n",
            "linger = nan\n",
            "\u{feff}",
            "proto = '\\u0000'\r\n",
            "\"\" = 5\n",
            "\"a\\nb\" = 5\n",
            "segment_bytes = \"a\\nb\"\n",
            "admin = '''\n\n'''\n",
            "[limts]\n",
        ];
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).expect("31 bits") % limit
        };
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..3000 {
            let mut text: String = (0..below(8)).map(|_| PIECES[below(PIECES.len())]).collect();
            for _ in 0..below(3) {
                let at = (0..=below(text.len() + 1)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                match below(3) {
                    0 => text.truncate(at),
                    1 => text.insert(at, ['[', '"', '=', '\n', '\0', 'é', '{'][below(7)]),
                    _ => drop(text.drain(..at)),
                }
            }
            match of_file(&text) {
                Ok(_) => taken += 1,
                Err(error) => {
                    refused += 1;
                    let said = error.to_string();
                    let line = said.strip_prefix("f.toml:").and_then(|rest| rest.split(':').next()?.parse().ok());
                    let lines = 1 + text.matches('\n').count();
                    assert!(line.is_some_and(|line: usize| (1..=lines).contains(&line)), "{said}\n{text:?}");
                    assert!(!said.contains('\n'), "{said:?}");
                }
            }
        }
        assert!(taken > 100 && refused > 100, "{taken} {refused}");
    }
}
