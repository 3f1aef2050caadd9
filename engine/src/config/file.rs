//! The configuration file (TOML): which key says what in which line. What keys there are and what they may say is the
//! flags' business.

use std::path::Path;

use memchr::memchr_iter;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, de};

use super::{files, wrong};
use crate::error::{ConfigError, shown};
use crate::limits::CONFIG_FILE_BYTES_MAX;

/// All that a configuration file says, in the order of its lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// Keys outside of `[[listen]]`.
    pub entries: Vec<Entry>,
    /// The names of the other tables, each with its line.
    pub tables: Vec<(String, usize)>,
    /// The `[[listen]]` tables.
    pub listen: Vec<ListenTable>,
}

/// A `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTable {
    /// Its keys.
    pub entries: Vec<Entry>,
    /// The line that it begins in.
    pub line: usize,
}

/// A key and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The table that it stands in, if any.
    pub table: Option<String>,
    /// The key.
    pub key: String,
    /// The line of the key.
    pub line: usize,
    /// What it says: the elements of a list, or one value.
    pub values: Vec<Value>,
    /// Whether it says it in a list.
    pub is_list: bool,
}

/// A value as a flag would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its text.
    pub text: String,
    /// What it is in TOML.
    pub kind: Kind,
    /// The line that it stands in.
    pub line: usize,
}

/// What TOML knows of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In quotes.
    Text,
    /// `true` or `false`.
    Bool,
    /// A number or a date.
    Number,
}

/// Reads a configuration file.
///
/// # Errors
/// It cannot be read, or it is no TOML, or has values that no setting has: file, line, and what to do.
pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let name = shown(path);
    let bytes = files::bytes(path, CONFIG_FILE_BYTES_MAX, "a TOML file");
    let bytes = bytes.map_err(|problem| wrong(name.clone(), problem))?;
    match str::from_utf8(&bytes) {
        Ok(text) => parse(&name, text),
        Err(error) => {
            let line = line(&bytes, error.valid_up_to());
            Err(wrong(format!("{name}:{line}"), "is not UTF-8; give a TOML file".to_owned()))
        }
    }
}

/// Takes the text of a configuration file apart; `name` is for errors.
///
/// # Errors
/// As of [`read`].
pub fn parse(name: &str, text: &str) -> Result<ConfigFile, ConfigError> {
    let source = Source { name, text };
    let root = DeTable::parse(text).map_err(|error| source.no_toml(&error))?.into_inner();
    let mut file = ConfigFile::default();
    for (key, value) in &root {
        match value.get_ref() {
            _ if key.get_ref() == "listen" => file.listen = source.listen(key, value)?,
            DeValue::Table(table) => {
                file.tables.push((key.get_ref().to_string(), source.line(key.span().start)));
                file.entries.extend(source.entries(Some(key.get_ref()), table)?);
            }
            _ => file.entries.push(source.entry(None, key, value)?),
        }
    }
    file.entries.sort_by_key(|entry| entry.line);
    Ok(file)
}

/// The line that this position is in.
fn line(text: &[u8], at: usize) -> usize {
    1 + memchr_iter(b'\n', &text[..at.min(text.len())]).count()
}

/// The file, for errors.
#[derive(Clone, Copy)]
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

type Key<'a> = Spanned<de::DeString<'a>>;

impl Source<'_> {
    fn line(self, at: usize) -> usize {
        line(self.text.as_bytes(), at)
    }

    fn wrong(self, line: usize, key: &str, problem: &str) -> ConfigError {
        wrong(format!("{}:{line}: {key}", self.name), problem.to_owned())
    }

    fn no_toml(self, error: &de::Error) -> ConfigError {
        let line = self.line(error.span().map_or(0, |span| span.start));
        let problem = format!("{}; give TOML, a line such as data = \"/var/lib/engine\"", error.message().trim());
        wrong(format!("{}:{line}", self.name), problem)
    }

    fn listen(self, key: &Key<'_>, value: &Spanned<DeValue<'_>>) -> Result<Vec<ListenTable>, ConfigError> {
        let no_tables = || {
            let line = self.line(key.span().start);
            self.wrong(line, "listen", "is not a list of tables; begin each listener with a line [[listen]]")
        };
        let DeValue::Array(tables) = value.get_ref() else { return Err(no_tables()) };
        let table = |value: &Spanned<DeValue<'_>>| {
            let DeValue::Table(table) = value.get_ref() else { return Err(no_tables()) };
            Ok(ListenTable { entries: self.entries(None, table)?, line: self.line(value.span().start) })
        };
        tables.iter().map(table).collect()
    }

    fn entries(self, name: Option<&str>, table: &DeTable<'_>) -> Result<Vec<Entry>, ConfigError> {
        let mut entries: Vec<Entry> =
            table.iter().map(|(key, value)| self.entry(name, key, value)).collect::<Result<_, _>>()?;
        entries.sort_by_key(|entry| entry.line);
        Ok(entries)
    }

    fn entry(self, table: Option<&str>, key: &Key<'_>, value: &Spanned<DeValue<'_>>) -> Result<Entry, ConfigError> {
        let name = key.get_ref().to_string();
        let (values, is_list) = match value.get_ref() {
            DeValue::Array(list) => {
                let values = list.iter().map(|value| self.value(&name, value)).collect::<Result<_, _>>()?;
                (values, true)
            }
            _ => (vec![self.value(&name, value)?], false),
        };
        Ok(Entry { table: table.map(str::to_owned), key: name, line: self.line(key.span().start), values, is_list })
    }

    fn value(self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
        let line = self.line(value.span().start);
        let (text, kind) = match value.get_ref() {
            DeValue::String(text) => (text.to_string(), Kind::Text),
            DeValue::Boolean(is) => (is.to_string(), Kind::Bool),
            DeValue::Integer(number) => (number.to_string(), Kind::Number),
            DeValue::Float(number) => (number.to_string(), Kind::Number),
            DeValue::Datetime(time) => (time.to_string(), Kind::Number),
            DeValue::Array(_) => return Err(self.wrong(line, key, "a list in a list is not possible; give one list")),
            DeValue::Table(_) => return Err(self.wrong(line, key, "a table is not possible here; give a value")),
        };
        Ok(Value { text, kind, line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse("engine.toml", text).expect_err("wrong on purpose").to_string()
    }

    #[test]
    fn keys_and_values_know_their_lines() {
        let text = "data = 'a'\n\n[limits]\ntokens_max = 100_000\n[[listen]]\nproto = \"tcp\"\n[[listen]]\ncert = [\n 'a',\n 'b']\n";
        let file = parse("engine.toml", text).expect("in order");
        let told: Vec<_> =
            file.entries.iter().map(|entry| (entry.table.as_deref(), &entry.key[..], entry.line)).collect();
        assert_eq!(told, [(None, "data", 1), (Some("limits"), "tokens_max", 4)]);
        assert_eq!(file.entries[1].values, [Value { text: "100000".into(), kind: Kind::Number, line: 4 }]);
        let listen: Vec<_> = file.listen.iter().map(|table| table.line).collect();
        assert_eq!(listen, [5, 7]);
        let cert = &file.listen[1].entries[0];
        assert_eq!((cert.line, cert.is_list, cert.values[0].line, cert.values[1].line), (8, true, 9, 10));
    }

    #[test]
    fn what_is_no_configuration_names_its_line() {
        assert!(refused("\n\ndata = \n").starts_with("engine.toml:3: "));
        assert!(refused("data = 'a'\ndata = 'b'\n").starts_with("engine.toml:2: "));
        assert!(refused("listen = 5").starts_with("engine.toml:1: listen: is not a list of tables;"));
        assert!(refused("\nlisten = [5]").starts_with("engine.toml:2: listen: is not a list of tables;"));
        assert!(refused("\ntcp = [['a']]").starts_with("engine.toml:2: tcp: a list in a list"));
        assert!(refused("[a.b]\n").starts_with("engine.toml:1: b: a table is not possible here;"));
    }
}
