//! `docs/api`: a page for each service, made from the protos and their comments. What is there must be what they say;
//! `UPDATE=1 cargo test -p vmferry-proto --test api` writes it anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, ServiceDescriptorProto, field_descriptor_proto::Type,
};

/// Numbers of fields of descriptors, of which the paths to comments consist.
const FILE_MESSAGES: i32 = 4;
const FILE_ENUMS: i32 = 5;
const FILE_SERVICES: i32 = 6;
const MESSAGE_FIELDS: i32 = 2;
const MESSAGE_NESTED: i32 = 3;
const MESSAGE_ENUMS: i32 = 4;
const MESSAGE_ONEOFS: i32 = 8;
const ENUM_VALUES: i32 = 2;
const SERVICE_METHODS: i32 = 2;

#[test]
fn the_pages_of_the_api_say_what_the_protos_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace").join("docs/api");
    let pages = pages();
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(&directory).expect("made");
        for (name, page) in &pages {
            fs::write(directory.join(name), page).expect("written");
        }
    }
    for (name, page) in &pages {
        let there = fs::read_to_string(directory.join(name)).unwrap_or_default();
        assert!(there == *page, "docs/api/{name} is not what the protos say; write it with UPDATE=1");
    }
    let there = fs::read_dir(&directory).expect("it is there").map(|entry| entry.expect("readable").path());
    let stale: Vec<PathBuf> = there.filter(|path| !pages.keys().any(|name| path.ends_with(name))).collect();
    assert!(stale.is_empty(), "of no service: {stale:?}");
}

#[test]
fn every_service_message_and_field_is_told_of() {
    let pages = pages();
    assert_eq!(pages.len(), 6, "a page for each service, and one that lists them: {:?}", pages.keys());
    let fleet = &pages["FleetService.md"];
    for part in [
        "`rpc Migrate(MigrateRequest) returns (stream MigrateResponse)`",
        "The request's migration_id makes a repeat safe",
        "| `phase` | [Phase](#phase) | 2 |",
        "| `OUTCOME_HELD` |",
        "### Wish.Live",
    ] {
        assert!(fleet.contains(part), "`{part}` is not in:\n{fleet}");
    }
}

/// A message or an enumeration with what is said of it.
struct Documented<'a> {
    comment: String,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Message { message: &'a DescriptorProto, fields: Vec<String>, oneofs: Vec<String> },
    Enum { values: Vec<(&'a str, String)> },
}

type Types<'a> = BTreeMap<String, Documented<'a>>;

fn pages() -> BTreeMap<String, String> {
    let set = FileDescriptorSet::decode(vmferry_proto::DESCRIPTORS).expect("our own descriptors");
    let mut types = Types::new();
    for file in &set.file {
        let comments = comments(file);
        for (number, message) in (0..).zip(&file.message_type) {
            let scope = format!(".{}", file.package());
            gather(&mut types, &comments, message, &scope, vec![FILE_MESSAGES, number]);
        }
        for (number, enumeration) in (0..).zip(&file.enum_type) {
            let scope = format!(".{}", file.package());
            gather_enum(&mut types, &comments, enumeration, &scope, &[FILE_ENUMS, number]);
        }
    }
    let mut pages = BTreeMap::new();
    let mut index = String::from(
        "# The API\n\nMade from the protos in `proto/`, by `UPDATE=1 cargo test -p vmferry-proto --test api`. \
         How to call it: [service.md](../service.md).\n\n| service | offered by |\n| --- | --- |\n",
    );
    for file in &set.file {
        let comments = comments(file);
        for (number, service) in (0..).zip(&file.service) {
            let name = format!("{}.md", service.name());
            let by = if file.package().contains(".agent.") { "every host's agent" } else { "coordinators" };
            let full = format!("{}.{}", file.package(), service.name());
            _ = writeln!(index, "| [{full}]({name}) | {by} |");
            pages.insert(name, page(&types, &comments, file, service, number));
        }
    }
    pages.insert("README.md".to_owned(), index);
    pages
}

type Comments = BTreeMap<Vec<i32>, String>;

fn comments(file: &FileDescriptorProto) -> Comments {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let said = locations.map(|location| {
        let comment = location.leading_comments().lines().map(|line| line.strip_prefix(' ').unwrap_or(line));
        (location.path.clone(), comment.collect::<Vec<_>>().join("\n").trim().to_owned())
    });
    said.filter(|(_, comment)| !comment.is_empty()).collect()
}

fn gather<'a>(types: &mut Types<'a>, comments: &Comments, message: &'a DescriptorProto, scope: &str, path: Vec<i32>) {
    let name = format!("{scope}.{}", message.name());
    let below = |kind: i32, number: usize| {
        let number = i32::try_from(number).expect("few");
        [path.as_slice(), &[kind, number]].concat()
    };
    for (number, nested) in message.nested_type.iter().enumerate() {
        gather(types, comments, nested, &name, below(MESSAGE_NESTED, number));
    }
    for (number, enumeration) in message.enum_type.iter().enumerate() {
        gather_enum(types, comments, enumeration, &name, &below(MESSAGE_ENUMS, number));
    }
    let said = |kind, count: usize| {
        (0..count).map(|number| comments.get(&below(kind, number)).cloned().unwrap_or_default()).collect()
    };
    let (fields, oneofs) = (said(MESSAGE_FIELDS, message.field.len()), said(MESSAGE_ONEOFS, message.oneof_decl.len()));
    let comment = comments.get(&path).cloned().unwrap_or_default();
    types.insert(name, Documented { comment, kind: Kind::Message { message, fields, oneofs } });
}

fn gather_enum<'a>(
    types: &mut Types<'a>,
    comments: &Comments,
    enumeration: &'a EnumDescriptorProto,
    scope: &str,
    path: &[i32],
) {
    let values = (0..).zip(&enumeration.value).map(|(number, value)| {
        (value.name(), comments.get(&[path, &[ENUM_VALUES, number]].concat()).cloned().unwrap_or_default())
    });
    let comment = comments.get(path).cloned().unwrap_or_default();
    let kind = Kind::Enum { values: values.collect() };
    types.insert(format!("{scope}.{}", enumeration.name()), Documented { comment, kind });
}

fn page(
    types: &Types<'_>,
    comments: &Comments,
    file: &FileDescriptorProto,
    service: &ServiceDescriptorProto,
    number: i32,
) -> String {
    let path = [FILE_SERVICES, number];
    let mut page = format!("# {}.{}\n\n", file.package(), service.name());
    if let Some(comment) = comments.get(&path[..]) {
        _ = writeln!(page, "{}\n", prose(comment));
    }
    _ = writeln!(page, "From `{}`; by the protos, as all in [api](README.md).\n\n## Calls\n", file.name());
    let mut reached = BTreeSet::new();
    for (number, method) in (0..).zip(&service.method) {
        _ = writeln!(page, "### rpc {}\n\n`{}`\n", method.name(), signature(method));
        if let Some(comment) = comments.get(&[&path[..], &[SERVICE_METHODS, number]].concat()) {
            _ = writeln!(page, "{}\n", prose(comment));
        }
        for name in [method.input_type(), method.output_type()] {
            reach(types, name, &mut reached);
        }
    }
    page += "## Messages\n";
    for name in &reached {
        if let Some(documented) = types.get(name) {
            write_type(&mut page, name, documented);
        }
    }
    page
}

fn signature(method: &MethodDescriptorProto) -> String {
    let stream = |is_stream| if is_stream { "stream " } else { "" };
    format!(
        "rpc {}({}{}) returns ({}{})",
        method.name(),
        stream(method.client_streaming()),
        short(method.input_type()),
        stream(method.server_streaming()),
        short(method.output_type())
    )
}

/// The type and all that it consists of.
fn reach(types: &Types<'_>, name: &str, reached: &mut BTreeSet<String>) {
    let Some(documented) = types.get(name) else { return };
    if !is_map_entry(documented) && !reached.insert(name.to_owned()) {
        return;
    }
    if let Kind::Message { message, .. } = &documented.kind {
        for field in message.field.iter().filter(|field| !field.type_name().is_empty()) {
            reach(types, field.type_name(), reached);
        }
    }
}

fn is_map_entry(documented: &Documented<'_>) -> bool {
    match &documented.kind {
        Kind::Message { message, .. } => message.options.as_ref().is_some_and(|options| options.map_entry()),
        Kind::Enum { .. } => false,
    }
}

/// Without its package, which all of ours but Google's have in their name.
fn short(name: &str) -> &str {
    let name = name.trim_start_matches('.');
    match name.split_once(".v1.") {
        Some((package, rest)) if package.starts_with("vmferry.") => rest,
        _ => name.strip_prefix("google.protobuf.").unwrap_or(name),
    }
}

fn write_type(page: &mut String, name: &str, documented: &Documented<'_>) {
    _ = writeln!(page, "\n### {}\n", short(name));
    if !documented.comment.is_empty() {
        _ = writeln!(page, "{}\n", prose(&documented.comment));
    }
    match &documented.kind {
        Kind::Message { message, .. } if message.field.is_empty() => page.push_str("Nothing is in it.\n"),
        Kind::Message { message, fields, oneofs } => {
            page.push_str("| field | type | number | |\n| --- | --- | --- | --- |\n");
            for (field, comment) in message.field.iter().zip(fields) {
                _ = writeln!(
                    page,
                    "| `{}` | {} | {} | {} |",
                    field.name(),
                    type_of(field),
                    field.number(),
                    cell(&said(message, field, comment, oneofs))
                );
            }
        }
        Kind::Enum { values } => {
            page.push_str("| value | |\n| --- | --- |\n");
            for (value, comment) in values {
                _ = writeln!(page, "| `{value}` | {} |", cell(comment));
            }
        }
    }
}

/// What is said of a field, and with which others it shares its place.
fn said(message: &DescriptorProto, field: &FieldDescriptorProto, comment: &str, oneofs: &[String]) -> String {
    let (Some(index), false) = (field.oneof_index, field.proto3_optional()) else { return comment.to_owned() };
    let index = usize::try_from(index).expect("not negative");
    let oneof = message.oneof_decl[index].name();
    let whole = if oneofs[index].is_empty() { String::new() } else { format!(" ({})", oneofs[index]) };
    format!("One of `{oneof}`{whole}. {comment}").trim().to_owned()
}

fn type_of(field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum if field.type_name().starts_with(".vmferry.") => {
            let name = short(field.type_name());
            format!("[{name}](#{})", name.to_lowercase().replace('.', ""))
        }
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    let is_map = field.type_name().ends_with("Entry");
    match (field.label(), field.proto3_optional()) {
        _ if is_map => "map".to_owned(),
        (prost_types::field_descriptor_proto::Label::Repeated, _) => format!("repeated {name}"),
        (_, true) => format!("optional {name}"),
        _ => name,
    }
}

/// Lines that are indented stand as they are, others flow.
fn prose(comment: &str) -> String {
    let mut text = String::new();
    let mut is_code = false;
    for line in comment.lines() {
        let indented = line.starts_with("  ");
        if indented != is_code {
            text.push_str(if indented { "```text\n" } else { "```\n" });
            is_code = indented;
        }
        text.push_str(line);
        text.push('\n');
    }
    if is_code {
        text.push_str("```\n");
    }
    text.trim_end().to_owned()
}

fn cell(comment: &str) -> String {
    comment.replace('\n', " ").replace('|', "\\|")
}
