//! `import`: a `LANPool` in place of whereabouts or host-local, while pods have addresses of it.
//!
//! Nothing is changed here: `kubectl k8slan import` collects what is read, and has kubectl do what is said.

mod documents;
mod exclude;
mod files;
mod group;
mod host_local;
mod lan_pool;
mod old;
mod plan;
mod report;
mod targets;
mod whereabouts;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use node::one_line;
use serde_json::Value;

use crate::output::finish;
use documents::Documents;
use old::Plugin;
use plan::{Change, Plan, Step, plan};
use targets::Question;

/// What to import, and how to say it.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The IPAM plugin whose addresses are taken over.
    plugin: Plugin,
    /// The pool: of several that there could be, this one; of one, its name.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Gives free what the import excluded and no pod has any more.
    #[arg(long)]
    finish: bool,
    /// The file to read; '-' is standard input.
    #[arg(long, value_name = "FILE", default_value = "-")]
    from: PathBuf,
    /// How: text for people, or the LANPools as they shall be.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", hide_default_value = true)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    /// With the text as comments.
    Yaml,
    Json,
    /// A line for each thing to do: create OBJECT, replace OBJECT, say TEXT, refuse TEXT.
    #[value(hide = true)]
    Actions,
}

/// Which node has host-local's leases, and where they are.
#[derive(Clone, Debug, clap::Args)]
pub struct FileOptions {
    /// The folder of host-local's networks.
    #[arg(long, value_name = "DIR", default_value = files::FOLDER)]
    dir: PathBuf,
    /// The node's name.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: String,
}

/// Prints what is to be done; the exit code is 1 if that is not possible.
#[must_use]
pub fn main(options: &Options) -> ExitCode {
    match run(options) {
        Ok((text, refused)) => match finish("import", Ok(text)) {
            ExitCode::SUCCESS if refused => ExitCode::FAILURE,
            code => code,
        },
        Err(error) => finish("import", Err(error)),
    }
}

/// Prints host-local's leases on a node, for [`main`].
#[must_use]
pub fn host_local_leases(options: &FileOptions) -> ExitCode {
    let read = files::read(&options.dir, &options.node_name);
    finish("host-local-leases", read.and_then(|leases| Ok(serde_json::to_string(&leases)? + "\n")))
}

/// The text, and whether something of it was refused.
fn run(options: &Options) -> Result<(String, bool)> {
    let input: Box<dyn Read> = match options.from == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => {
            Box::new(File::open(&options.from).with_context(|| format!("read {}", options.from.display()))?)
        }
    };
    let documents = Documents::read(BufReader::new(input))?;
    let question = Question { plugin: options.plugin, pool: options.pool.clone(), finish: options.finish };
    let plan = plan(&documents, &question)?;
    let refused = plan.steps.iter().any(|step| step.refusal.is_some());
    match options.output {
        Format::Text => Ok((told(&plan).join("\n") + "\n", refused)),
        Format::Yaml => Ok((yaml(&plan)?, refused)),
        Format::Json => Ok((json(&plan)?, refused)),
        // Who carries it out tells what was refused.
        Format::Actions => Ok((actions(&plan)?, false)),
    }
}

/// The lines about a step.
fn lines(step: &Step) -> Vec<String> {
    let refusal = step.refusal.iter().map(|refusal| format!("LANPool {}: refused: {refusal}", step.pool));
    refusal.chain(step.lines.iter().cloned()).map(|line| on_one_line(&line)).collect()
}

/// With the blanks that it begins with.
fn on_one_line(line: &str) -> String {
    let text = line.trim_start_matches(' ');
    format!("{}{}", " ".repeat(line.len() - text.len()), one_line(text))
}

fn notes(plan: &Plan) -> impl Iterator<Item = String> {
    plan.notes.iter().map(|note| on_one_line(&format!("note: {note}")))
}

fn told(plan: &Plan) -> Vec<String> {
    plan.steps.iter().flat_map(lines).chain(notes(plan)).collect()
}

/// An object as somebody would apply it.
fn object(step: &Step) -> Option<Value> {
    let (Change::Create(object) | Change::Replace(object)) = step.change.clone()?;
    let mut shown = object;
    if let Some(object) = shown.as_object_mut() {
        object.remove("status");
    }
    if let Some(metadata) = shown["metadata"].as_object_mut() {
        metadata.retain(|key, _| ["name", "labels", "annotations"].contains(&key.as_str()));
    }
    Some(shown)
}

fn yaml(plan: &Plan) -> Result<String> {
    let mut text = String::new();
    let comments = |text: &mut String, lines: Vec<String>| {
        lines.iter().for_each(|line| text.push_str(&format!("# {line}\n")));
    };
    for step in &plan.steps {
        comments(&mut text, lines(step));
        if let Some(object) = object(step) {
            text.push_str(&serde_saphyr::to_string(&object)?);
            text.push_str("---\n");
        }
    }
    comments(&mut text, notes(plan).collect());
    Ok(text)
}

fn json(plan: &Plan) -> Result<String> {
    let items: Vec<Value> = plan.steps.iter().filter_map(object).collect();
    let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items });
    Ok(serde_json::to_string_pretty(&list)? + "\n")
}

fn actions(plan: &Plan) -> Result<String> {
    let mut text = String::new();
    for step in &plan.steps {
        match &step.change {
            Some(Change::Create(object)) => {
                text.push_str(&format!("create {}\n", serde_json::to_string(object)?))
            }
            Some(Change::Replace(object)) => {
                text.push_str(&format!("replace {}\n", serde_json::to_string(object)?))
            }
            None => {}
        }
        let verb = if step.refusal.is_some() { "refuse" } else { "say" };
        lines(step).iter().for_each(|line| text.push_str(&format!("{verb} {line}\n")));
    }
    notes(plan).for_each(|note| text.push_str(&format!("say {note}\n")));
    Ok(text)
}

#[cfg(test)]
mod tests;
