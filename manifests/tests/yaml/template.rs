//! As much of Helm's templates as ours are written in, so that the chart is rendered and judged
//! where there is no helm. Whatever else a template holds is a panic: it is to be written simply.

use std::iter::Peekable;
use std::vec::IntoIter;

use serde_json::Value;

/// What came out, or what the template itself refused with.
pub(crate) fn render(text: &str, root: &Value) -> Result<String, String> {
    let mut pieces = pieces(text).into_iter().peekable();
    let (nodes, end) = nodes(&mut pieces);
    assert_eq!(end, None, "an end without a beginning");
    let mut out = String::new();
    write(&nodes, root, &mut out)?;
    Ok(out)
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Action(String),
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(String),
    /// Of each branch its condition, of which the last may have none.
    If(Vec<(Option<String>, Vec<Self>)>),
    With(String, Vec<Self>),
    Range(String, Vec<Self>),
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = text.to_owned();
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").expect("an action that ends");
        let trims_before = action.starts_with('-');
        let before = if trims_before {
            before.trim_end()
        } else {
            before
        };
        pieces.push(Piece::Text(before.to_owned()));
        let trims_after = action.ends_with('-');
        pieces.push(Piece::Action(action.trim_matches('-').trim().to_owned()));
        rest = match trims_after {
            true => after.trim_start().to_owned(),
            false => after.to_owned(),
        };
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// Up to the end, or to the `else` that it answers.
fn nodes(pieces: &mut Peekable<IntoIter<Piece>>) -> (Vec<Node>, Option<String>) {
    let mut list = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                list.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(' ').unwrap_or((&action, ""));
        match word {
            "end" | "else" => return (list, Some(action)),
            "if" => list.push(branches(pieces, rest)),
            "with" | "range" => {
                let (body, end) = nodes(pieces);
                assert_eq!(end.as_deref(), Some("end"));
                list.push(match word {
                    "with" => Node::With(rest.to_owned(), body),
                    _ => Node::Range(rest.to_owned(), body),
                });
            }
            _ => list.push(Node::Print(action)),
        }
    }
    (list, None)
}

fn branches(pieces: &mut Peekable<IntoIter<Piece>>, condition: &str) -> Node {
    let mut branches = Vec::new();
    let mut condition = Some(condition.to_owned());
    loop {
        let (body, end) = nodes(pieces);
        branches.push((condition, body));
        let end = end.expect("an if that ends");
        if end == "end" {
            return Node::If(branches);
        }
        condition = end.strip_prefix("else if ").map(str::to_owned);
    }
}

fn write(nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipeline) => out.push_str(&plain(&value(pipeline, dot)?)),
            Node::With(pipeline, body) => {
                let value = value(pipeline, dot)?;
                if is_true(&value) {
                    write(body, &value, out)?;
                }
            }
            Node::Range(pipeline, body) => {
                for item in value(pipeline, dot)?.as_array().into_iter().flatten() {
                    write(body, item, out)?;
                }
            }
            Node::If(branches) => {
                for (condition, body) in branches {
                    let holds = match condition {
                        Some(condition) => is_true(&value(condition, dot)?),
                        None => true,
                    };
                    if holds {
                        write(body, dot, out)?;
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Of a pipeline: what each part makes is the last operand of the next.
fn value(pipeline: &str, dot: &Value) -> Result<Value, String> {
    let mut last = None;
    for command in split(pipeline, '|') {
        let mut operands = split(&command, ' ').into_iter();
        let first = operands.next().expect("a command");
        let mut given = Vec::new();
        for operand in operands {
            given.push(one(&operand, dot)?);
        }
        given.extend(last.take());
        let is_call = first.chars().all(char::is_alphabetic);
        last = Some(match is_call {
            true => call(&first, given)?,
            false => one(&first, dot)?,
        });
    }
    Ok(last.unwrap_or(Value::Null))
}

fn one(operand: &str, dot: &Value) -> Result<Value, String> {
    if let Some(inside) = operand.strip_prefix('(') {
        return value(inside.strip_suffix(')').expect("a closing one"), dot);
    }
    if let Some(path) = operand.strip_prefix('.') {
        let names = path.split('.').filter(|name| !name.is_empty());
        return Ok(names.fold(dot.clone(), |value, name| value[name].clone()));
    }
    Ok(serde_json::from_str(operand).unwrap_or_else(|e| panic!("{operand}: {e}")))
}

fn call(name: &str, given: Vec<Value>) -> Result<Value, String> {
    let last = given.last().cloned().unwrap_or(Value::Null);
    Ok(match name {
        "quote" => format!("{:?}", plain(&last)).into(),
        "int" => last.as_i64().unwrap_or(0).into(),
        "not" => (!is_true(&last)).into(),
        "eq" => (given[0] == given[1]).into(),
        "list" => given.into(),
        "has" => last
            .as_array()
            .is_some_and(|list| list.contains(&given[0]))
            .into(),
        "toYaml" => yaml(&last).into(),
        "nindent" => {
            let blanks = " ".repeat(usize::try_from(given[0].as_u64().unwrap()).unwrap());
            plain(&last)
                .lines()
                .fold(String::new(), |text, line| {
                    format!("{text}\n{blanks}{line}")
                })
                .into()
        }
        "printf" => plain(&given[0])
            .replace("%q", &format!("{:?}", plain(&last)))
            .into(),
        "fail" => return Err(plain(&last)),
        other => panic!("nobody knows the function {other}"),
    })
}

/// Block by block at the top, and as JSON below, which is YAML as well.
fn yaml(value: &Value) -> String {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| format!("{key}: {value}\n"))
            .collect(),
        Value::Array(list) => list.iter().map(|item| format!("- {item}\n")).collect(),
        other => other.to_string(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// At separators that stand neither in quotation marks nor in parentheses.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut quoted, mut depth) = (vec![String::new()], false, 0);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        match c == separator && !quoted && depth == 0 {
            true => parts.push(String::new()),
            false => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.into_iter().map(|part| part.trim().to_owned());
    parts.filter(|part| !part.is_empty()).collect()
}
