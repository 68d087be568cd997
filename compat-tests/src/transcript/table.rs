//! Tables: a request on each line, a state in each column, the reply where they meet.

use super::read::request;
use super::{Action, Case, Pattern, Step};
use std::collections::HashMap;

/// A case that is a table. Each line becomes a case of its own: for each state in turn it plays what
/// stands under `! before`, what makes the state, the line's request, and what stands under `! after`.
pub(super) struct Table {
    title: String,
    flags: Vec<String>,
    before: Vec<Step>,
    states: Vec<(String, Vec<Step>)>,
    after: Vec<Step>,
    /// Short names for long replies.
    names: HashMap<String, String>,
    /// Which states the columns stand for, once the head of the table was read.
    columns: Vec<usize>,
    part: Part,
    line_count: usize,
}

#[derive(Clone, Copy)]
enum Part {
    Before,
    State,
    After,
}

impl Table {
    pub fn new(title: String, flags: Vec<String>) -> Table {
        Table {
            title,
            flags,
            before: Vec::new(),
            states: Vec::new(),
            after: Vec::new(),
            names: HashMap::new(),
            columns: Vec::new(),
            part: Part::Before,
            line_count: 0,
        }
    }

    /// Whether it has no lines.
    pub fn is_empty(&self) -> bool {
        self.line_count == 0
    }

    /// Where the steps go that come next.
    pub fn steps(&mut self) -> &mut Vec<Step> {
        match self.part {
            Part::Before => &mut self.before,
            Part::State => &mut self.states.last_mut().expect("the part began with a state").1,
            Part::After => &mut self.after,
        }
    }

    /// Takes a directive of tables; false for any other.
    pub fn direct(&mut self, directive: &str) -> Result<bool, String> {
        match directive.split_once(' ').unwrap_or((directive, "")) {
            ("state", name) if !name.is_empty() => {
                self.states.push((name.trim().into(), Vec::new()));
                self.part = Part::State;
            }
            ("after", "") => self.part = Part::After,
            ("let", rest) => {
                let (name, reply) = rest.split_once(" = ").ok_or("let takes name = reply")?;
                self.names.insert(name.trim().into(), reply.into());
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes a line of the table; all but its head and the rule under it make a case.
    pub fn line(&mut self, line: usize, text: &str) -> Result<Option<Case>, String> {
        let inner = text.trim().strip_prefix('|').and_then(|text| text.strip_suffix('|'));
        let cells: Vec<&str> =
            inner.ok_or("a line of a table ends with |")?.split('|').map(str::trim).collect();
        if self.columns.is_empty() {
            for name in &cells[1..] {
                let state = self.states.iter().position(|(state, _)| state == name);
                self.columns.push(state.ok_or_else(|| format!("no state {name}"))?);
            }
            return Ok(None);
        }
        if cells.iter().all(|cell| cell.bytes().all(|byte| byte == b'-')) {
            return Ok(None);
        }
        if cells.len() != 1 + self.columns.len() {
            return Err(format!("{} columns, not {}", self.columns.len(), cells.len() - 1));
        }
        let action = request(cells[0])?.ok_or("a line of a table begins with a request")?;
        let mut steps = Vec::new();
        for (&column, cell) in self.columns.iter().zip(&cells[1..]) {
            let (state, making) = &self.states[column];
            let reply = self.names.get(*cell).map_or(*cell, String::as_str);
            let reply = Action::Expect(Pattern::parse(reply)?);
            let own =
                [action.clone(), reply].map(|action| Step { line, state: state.clone(), action });
            let around = |steps: &[Step]| -> Vec<Step> {
                steps.iter().map(|step| Step { state: state.clone(), ..step.clone() }).collect()
            };
            steps.extend(around(&self.before));
            steps.extend(around(making));
            steps.extend(own);
            steps.extend(around(&self.after));
        }
        let goes_on = self.line_count > 0;
        self.line_count += 1;
        let title = format!("{}: {}", self.title, cells[0]);
        Ok(Some(Case { title, flags: self.flags.clone(), steps, goes_on }))
    }
}
