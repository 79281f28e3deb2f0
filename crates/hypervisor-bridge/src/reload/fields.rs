//! A view of a section as a list of named fields.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

/// Values by the names of their fields.
pub(super) type Fields = BTreeMap<String, String>;

/// Hexadecimal digits of eight bytes: what one field of a byte state is.
const CHUNK_DIGITS: usize = 16;

/// Keys that tell the elements of a list apart, in the order in which they make its name.
const LABELS: [&str; 4] = ["function", "index", "number", "id"];

/// Every field of `view`. A view that cannot be shown at all is one field that equals no other.
pub(super) fn fields_of(view: &impl Serialize) -> Fields {
    let mut fields = Fields::new();
    match serde_json::to_value(view) {
        // One key, the kind of the section, and below it what it says.
        Ok(Value::Object(kinds)) => kinds.values().for_each(|value| add("", value, &mut fields)),
        Ok(value) => add("", &value, &mut fields),
        Err(error) => drop(fields.insert("the view".to_owned(), error.to_string())),
    }
    fields
}

/// Bytes that mean themselves.
pub(super) fn bytes_as_fields(name: &str, bytes: &[u8]) -> Fields {
    let mut fields = Fields::new();
    fields.insert(format!("{name}.len"), bytes.len().to_string());
    for (at, chunk) in bytes.chunks(CHUNK_DIGITS / 2).enumerate() {
        let text: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let at = at * CHUNK_DIGITS / 2;
        fields.insert(format!("{name}[{at:#x}]"), text.concat());
    }
    fields
}

fn add(path: &str, value: &Value, fields: &mut Fields) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                let dot = if path.is_empty() { "" } else { "." };
                add(&format!("{path}{dot}{key}"), below, fields);
            }
        }
        Value::Array(all) => add_list(path, all, fields),
        Value::String(text) if is_byte_state(text) => add_bytes(path, text, fields),
        Value::String(text) => drop(fields.insert(path.to_owned(), text.clone())),
        value => drop(fields.insert(path.to_owned(), value.to_string())),
    }
}

/// A list, by what its elements are called where that tells them apart, and by place otherwise.
fn add_list(path: &str, all: &[Value], fields: &mut Fields) {
    fields.insert(format!("{path}.len"), all.len().to_string());
    let labels: Option<Vec<String>> = all.iter().map(label).collect();
    let labels = labels.filter(|labels| labels.iter().collect::<BTreeSet<_>>().len() == all.len());
    for (place, element) in all.iter().enumerate() {
        let label = labels.as_ref().and_then(|labels| labels.get(place));
        if let Some(label) = label {
            // Order counts as well: registers are written back in it.
            fields.insert(format!("{path}.order[{place}]"), label.clone());
        }
        let label = label.cloned().unwrap_or_else(|| place.to_string());
        add(&format!("{path}[{label}]"), element, fields);
    }
}

fn label(element: &Value) -> Option<String> {
    let object = element.as_object()?;
    let parts: Vec<String> = LABELS
        .iter()
        .filter_map(|key| match object.get(*key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join("."))
}

/// Whether a text is how views show bytes: hexadecimal, and too long for a number.
fn is_byte_state(text: &str) -> bool {
    let digits = |byte: u8| byte.is_ascii_hexdigit();
    text.len() > 2 * CHUNK_DIGITS && text.len().is_multiple_of(2) && text.bytes().all(digits)
}

fn add_bytes(path: &str, text: &str, fields: &mut Fields) {
    fields.insert(format!("{path}.len"), (text.len() / 2).to_string());
    for (chunk, digits) in text.as_bytes().chunks(CHUNK_DIGITS).enumerate() {
        let at = chunk * CHUNK_DIGITS / 2;
        let digits = String::from_utf8_lossy(digits).into_owned();
        fields.insert(format!("{path}[{at:#x}]"), digits);
    }
}
