//! The configuration as the operator sees it: every setting, its value, and who said so.

use std::borrow::Cow;
use std::fmt;

use super::Config;
use crate::error::ConfigError;

/// Who gave a setting its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The command line.
    Flag,
    /// This variable of the environment.
    Environment(String),
    /// The configuration file, at this line: `FILE:LINE`.
    File(String),
}

impl Origin {
    /// What an error about this key is about, as the operator gave it.
    #[must_use]
    pub fn subject(&self, key: &str) -> Cow<'static, str> {
        match self {
            Self::Default | Self::Flag => format!("--{}", key.replace('_', "-")).into(),
            Self::Environment(variable) => variable.clone().into(),
            Self::File(place) => format!("{place}: {key}").into(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag => f.write_str("flag"),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(place) => f.write_str(place),
        }
    }
}

/// A setting: its key, or `[[listen]]`, its value as text, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which.
    pub name: String,
    /// What it says; several values are separated by commas.
    pub value: String,
    /// Who says it.
    pub origin: Origin,
}

/// A configuration, and where each of its values comes from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What the engine runs with.
    pub config: Config,
    /// Every setting, in the order of the flags, then the `[[listen]]` tables of the file.
    pub settings: Vec<Setting>,
}

impl Resolved {
    /// The text of `engine check-config`: a line for each setting.
    #[must_use]
    pub fn shown(&self) -> String {
        let width =
            |part: fn(&Setting) -> &str| self.settings.iter().map(|setting| part(setting).chars().count()).max();
        let names = width(|setting| &setting.name).unwrap_or(0);
        // One long value moves no column but its own.
        let values = width(|setting| &setting.value).unwrap_or(0).min(60);
        let line = |Setting { name, value, origin }: &Setting| format!("{name:names$}  {value:values$}  {origin}\n");
        self.settings.iter().map(line).collect()
    }

    /// The same error about what the operator gave, which need not be a flag.
    #[must_use]
    pub fn named(settings: &[Setting], error: ConfigError) -> ConfigError {
        let Some(key) = error.flag.strip_prefix("--").map(|flag| flag.replace('-', "_")) else { return error };
        let setting = settings.iter().find(|setting| setting.name == key);
        ConfigError { flag: setting.map_or(error.flag, |setting| setting.origin.subject(&key)), ..error }
    }

    /// Reads the files that it names, and forgets what is in them.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        let checked = self.config.check_files();
        checked.map_err(|error| Self::named(&self.settings, error))
    }

    /// The settings whose values are not what they were before, each with what it was.
    #[must_use]
    pub fn changed_since(&self, before: &[Setting]) -> Vec<(String, String, String)> {
        let values = |settings: &[Setting], name: &str| {
            let own = settings.iter().filter(|setting| setting.name == name);
            own.map(|setting| setting.value.as_str()).collect::<Vec<_>>().join(", ")
        };
        let mut names: Vec<&str> = before.iter().chain(&self.settings).map(|setting| setting.name.as_str()).collect();
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(*name));
        let changed = names.into_iter().filter_map(|name| {
            let (old, new) = (values(before, name), values(&self.settings, name));
            (old != new).then(|| (name.to_owned(), old, new))
        });
        changed.collect()
    }
}
