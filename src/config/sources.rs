//! Reading the sources of settings: layers of names and values, each value with its origin.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use secrecy::SecretString;

use super::{NAMES, Setting};

/// The table of a TOML file that is ours.
const TABLE: &str = "redis";

/// How much of a file is read.
const LONGEST: u64 = 1 << 20;

/// What the files and the environment say.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) settings: BTreeMap<&'static str, Setting>,
    pub(super) mistakes: Vec<String>,
}

/// One source: its name, how it spells a setting, and what it says.
struct Layer {
    name: String,
    spelling: fn(&str) -> String,
    settings: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let spelling = self.spelling;
        Metadata::named(self.name.clone())
            .interpolater(move |_, keys| keys.iter().map(|key| spelling(key)).collect())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.settings.clone()))
    }
}

/// Reads the sources. `environment` is that of the process except in tests; `dotenv` need not
/// exist, `toml` must.
pub(super) fn load(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    dotenv: Option<&Path>,
    toml: Option<&Path>,
) -> Loaded {
    let mut loaded = Loaded::default();
    // Each merge goes over what is there already.
    let mut layers = Figment::new();
    if let Some(path) = toml {
        layers = layers.merge(toml_layer(path, &mut loaded.mistakes));
    }
    // A directory of that name is somebody's Python environment.
    if let Some(path) = dotenv.filter(|path| path.is_file()) {
        layers = layers.merge(dotenv_layer(path, &mut loaded.mistakes));
    }
    layers = layers.merge(environment_layer(environment, &mut loaded.mistakes));
    for name in NAMES {
        let Ok(value) = layers.find_value(name) else { continue };
        let origin = match layers.get_metadata(value.tag()) {
            Some(source) => {
                format!("{} from {}", source.interpolate(&Profile::Default, &[name]), source.name)
            }
            None => name.to_owned(),
        };
        loaded.settings.insert(name, Setting { value: text(name, value), origin });
    }
    loaded
}

/// A value as text: text itself, or an integer where a number is meant.
fn text(name: &str, value: Value) -> Result<SecretString, &'static str> {
    let is_number =
        matches!(name, "port" | "db" | "max_connections" | "max_in_flight" | "max_in_flight_bytes")
            || name.ends_with("_ms");
    match value {
        Value::String(_, text) => Ok(text.into()),
        Value::Num(_, number) if is_number => {
            let number = number.to_i128().ok_or("it is not a whole number")?;
            Ok(number.to_string().into())
        }
        _ if is_number => Err("it is not a number"),
        _ => Err("it is not text; put it in quotes"),
    }
}

fn variable(name: &str) -> String {
    format!("REDIS_{}", name.to_ascii_uppercase())
}

/// The variables of ours that are set, by the names of the settings.
fn variables(all: impl IntoIterator<Item = (String, String)>) -> Dict {
    let mut settings = Dict::new();
    for (variable_name, value) in all {
        let Some(name) = NAMES.into_iter().find(|name| variable(name) == variable_name) else {
            continue;
        };
        // Kubernetes sets REDIS_PORT=tcp://10.0.0.7:6379 for a service called `redis`.
        let service_link = name == "port" && value.starts_with("tcp://");
        if !value.is_empty() && !service_link {
            settings.insert(name.to_owned(), value.into());
        }
    }
    settings
}

fn environment_layer(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    mistakes: &mut Vec<String>,
) -> Layer {
    let name = "the environment";
    let mut readable = Vec::new();
    for (variable_name, value) in environment {
        let Ok(variable_name) = variable_name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => readable.push((variable_name, value)),
            Err(_) if NAMES.into_iter().any(|name| variable(name) == variable_name) => {
                mistakes.push(format!("{variable_name} from {name}: it is not UTF-8"));
            }
            Err(_) => {}
        }
    }
    Layer { name: name.to_owned(), spelling: variable, settings: variables(readable) }
}

fn dotenv_layer(path: &Path, mistakes: &mut Vec<String>) -> Layer {
    let name = path.display().to_string();
    let mut readable = Vec::new();
    match read(path) {
        Ok(text) => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            for (at, entry) in dotenvy::from_read_iter(text.as_bytes()).enumerate() {
                match entry {
                    // Variables that repeat variables can double with every line.
                    Ok((_, value)) if value.len() as u64 > LONGEST => {
                        mistakes.push(format!("{name}: entry {} is too long", at + 1));
                        break;
                    }
                    Ok(entry) => readable.push(entry),
                    // The error repeats the line.
                    Err(_) => mistakes.push(format!(
                        "{name}: entry {} is not of the form NAME=value; put a value with special \
                         characters in single quotes",
                        at + 1
                    )),
                }
            }
        }
        Err(mistake) => mistakes.push(format!("{name}: {mistake}")),
    }
    Layer { name, spelling: variable, settings: variables(readable) }
}

fn toml_layer(path: &Path, mistakes: &mut Vec<String>) -> Layer {
    let name = path.display().to_string();
    let mut settings = Dict::new();
    match read_table(path) {
        Ok(table) => {
            for (key, value) in table {
                if NAMES.contains(&key.as_str()) {
                    settings.insert(key, value);
                } else {
                    let known = NAMES.join(", ");
                    let key = key.escape_debug();
                    mistakes.push(format!(
                        "`{TABLE}.{key}` from {name}: the key is unknown; known are {known}"
                    ));
                }
            }
        }
        Err(mistake) => mistakes.push(format!("{name}: {mistake}")),
    }
    Layer { name, spelling: |name| format!("`{TABLE}.{name}`"), settings }
}

/// A file of settings; what is longer than that is another file, or one without an end.
fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST).read_to_string(&mut text))
        .map_err(|error| format!("it cannot be read: {}", error.kind()))?;
    if text.len() as u64 == LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes, so it holds no settings"));
    }
    Ok(text)
}

fn read_table(path: &Path) -> Result<Dict, String> {
    let text = read(path)?;
    let mut profiles = Toml::string(&text).data().map_err(|error| not_toml(&error.to_string()))?;
    let mut file = profiles.remove(&Profile::Default).unwrap_or_default();
    match file.remove(TABLE) {
        Some(Value::Dict(_, table)) => Ok(table),
        Some(_) => Err(format!("`{TABLE}` is not a table; write [{TABLE}]")),
        None => Err(format!("it has no table [{TABLE}]")),
    }
}

/// The parser's message goes on with the line itself, and a password may be in it: only the place
/// is kept.
fn not_toml(message: &str) -> String {
    let place = message.split_once(" at line ").and_then(|(_, rest)| {
        let (line, rest) = rest.split_once(", column ")?;
        let column: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((line.parse::<u32>().ok()?, column.parse::<u32>().ok()?))
    });
    match place {
        Some((line, column)) => format!("it is not TOML: see line {line}, column {column}"),
        None => "it is not TOML".to_owned(),
    }
}
