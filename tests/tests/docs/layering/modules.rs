//! Which module of a crate uses which other one, read from the tokens of its sources.
//!
//! A module is a file. A name that a module only passes on (`pub use`) counts as the module's that defines it, so that
//! `crate::Error` leads to `error.rs`, not to `lib.rs`. What is compiled for tests alone does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The path of a module within its crate; the root has none.
type ModulePath = Vec<String>;

/// What a file says.
#[derive(Default)]
struct Module {
    children: Vec<String>,
    /// The names of its items.
    defined: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths outside `use`, e.g. `store::open`; single words too.
    paths: BTreeSet<Vec<String>>,
}

/// One name that `use` brings in.
struct Import {
    path: Vec<String>,
    /// `*` for all names of `path`.
    name: String,
    is_public: bool,
}

/// The modules of one crate.
pub(crate) struct Modules(BTreeMap<ModulePath, Module>);

/// Where a path leads.
#[derive(Clone, PartialEq)]
enum Target {
    Module(ModulePath),
    /// An item of this module.
    Item(ModulePath),
}

impl Modules {
    /// Reads a crate from its root file (`lib.rs`, `main.rs`).
    pub(crate) fn read(root: &Path) -> Self {
        let folder = root.parent().unwrap();
        let mut modules = BTreeMap::new();
        let mut left = vec![(ModulePath::new(), root.to_owned(), folder.to_owned())];
        while let Some((path, file, folder)) = left.pop() {
            let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
            let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file:?}: {error}"));
            let mut module = Module::default();
            module.read_tokens(tokens, true);
            for child in &module.children {
                let (file, folder) = find_file(&folder, child);
                left.push(([path.as_slice(), std::slice::from_ref(child)].concat(), file, folder));
            }
            modules.insert(path, module);
        }
        Self(modules)
    }

    /// Groups of modules that use one another in a cycle, each as `a, b::c`; a module and those inside it are no cycle.
    pub(crate) fn cycles(&self) -> BTreeSet<String> {
        let uses: BTreeMap<&ModulePath, BTreeSet<ModulePath>> =
            self.0.keys().map(|path| (path, self.used_by(path))).collect();
        let reached: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> = uses
            .keys()
            .map(|start| {
                let mut reached = BTreeSet::new();
                let mut left: Vec<&ModulePath> = uses[start].iter().collect();
                while let Some(path) = left.pop() {
                    if reached.insert(path) {
                        left.extend(&uses[path]);
                    }
                }
                (*start, reached)
            })
            .collect();
        let cycles = reached.iter().filter(|(path, reached)| reached.contains(*path)).map(|(path, own)| {
            let members = own.iter().filter(|other| reached[**other].contains(path));
            members.map(|path| path.join("::")).collect::<Vec<_>>().join(", ")
        });
        cycles.collect()
    }

    /// The modules that this one uses, but for those around it and inside it.
    fn used_by(&self, path: &ModulePath) -> BTreeSet<ModulePath> {
        let module = &self.0[path];
        let imports = module.imports.iter().filter(|import| {
            // What is passed on and not used here makes no difference to the one who passes it on.
            !import.is_public || module.paths.iter().any(|used| used.first() == Some(&import.name))
        });
        let used = imports.map(|import| &import.path).chain(&module.paths);
        let targets = used.filter_map(|used| self.resolve(path, used, 0));
        targets
            .filter_map(|target| match target {
                Target::Item(used) if !used.starts_with(path) && !path.starts_with(&used) => Some(used),
                _ => None,
            })
            .collect()
    }

    /// Where a path leads that stands in `module`; `None` outside of the crate.
    fn resolve(&self, module: &ModulePath, path: &[String], depth: u32) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(self.resolve_in(&ModulePath::new(), rest, depth)),
            "self" => Some(self.resolve_in(module, rest, depth)),
            "super" => {
                let (_, parent) = module.split_last()?;
                let parent = parent.to_vec();
                match rest.first().map(String::as_str) {
                    Some("super") => self.resolve(&parent, rest, depth),
                    _ => Some(self.resolve_in(&parent, rest, depth)),
                }
            }
            name => {
                let own = &self.0[module];
                let is_known = own.children.contains(first) || own.imports.iter().any(|i| i.name == name);
                // A word alone is an item that was imported, which the import says already.
                (is_known && !rest.is_empty()).then(|| self.lookup(module, path, depth)).flatten()
            }
        }
    }

    fn resolve_in(&self, module: &ModulePath, path: &[String], depth: u32) -> Target {
        if path.is_empty() {
            return Target::Module(module.clone());
        }
        self.lookup(module, path, depth).unwrap_or_else(|| Target::Item(module.clone()))
    }

    /// Where a path leads whose first word is a name in `module`; `None` where that is no name there.
    fn lookup(&self, module: &ModulePath, path: &[String], depth: u32) -> Option<Target> {
        // Modules may import everything from one another.
        if depth > 20 {
            return None;
        }
        let (first, rest) = path.split_first()?;
        let own = &self.0[module];
        if own.children.contains(first) {
            let child = [module.as_slice(), std::slice::from_ref(first)].concat();
            return Some(self.resolve_in(&child, rest, depth + 1));
        }
        if own.defined.contains(first) {
            return Some(Target::Item(module.clone()));
        }
        if let Some(import) = own.imports.iter().find(|import| import.name == *first) {
            if import.path.first() == Some(first) {
                return None;
            }
            return match self.resolve_import(module, &import.path, depth + 1)? {
                Target::Module(target) => Some(self.resolve_in(&target, rest, depth + 1)),
                item => Some(item),
            };
        }
        own.imports.iter().filter(|import| import.name == "*").find_map(|import| {
            match self.resolve_import(module, &import.path, depth + 1)? {
                Target::Module(target) => self.lookup(&target, path, depth + 1),
                Target::Item(_) => None,
            }
        })
    }

    fn resolve_import(&self, module: &ModulePath, path: &[String], depth: u32) -> Option<Target> {
        match path {
            [one] if !["crate", "self", "super"].contains(&one.as_str()) => self.lookup(module, path, depth),
            _ => self.resolve(module, path, depth),
        }
    }
}

impl Module {
    fn read_tokens(&mut self, tokens: TokenStream, is_top: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        while let [first, after @ ..] = rest {
            rest = match (first, after) {
                (TokenTree::Punct(hash), [TokenTree::Group(attribute), after @ ..])
                    if hash.as_char() == '#' && is_for_tests(attribute) =>
                {
                    let ends = |token: &TokenTree| {
                        is_punct(token, ';')
                            || matches!(token, TokenTree::Group(g) if g.delimiter() == Delimiter::Brace)
                    };
                    let end = after.iter().position(ends).map_or(after.len(), |end| end + 1);
                    &after[end..]
                }
                (TokenTree::Ident(word), _) => self.read_words(&word.to_string(), after, is_top),
                (TokenTree::Group(group), _) => {
                    self.read_tokens(group.stream(), false);
                    after
                }
                _ => after,
            };
        }
    }

    /// Reads what begins with this word, and returns what comes after it.
    fn read_words<'a>(&mut self, word: &str, after: &'a [TokenTree], is_top: bool) -> &'a [TokenTree] {
        match (word, after) {
            ("mod", [TokenTree::Ident(name), end, ..]) if is_punct(end, ';') => {
                self.children.push(name.to_string());
                &after[2..]
            }
            ("pub", [TokenTree::Group(scope), use_, rest @ ..])
                if scope.delimiter() == Delimiter::Parenthesis && is_word(use_, "use") =>
            {
                self.read_use(rest, true)
            }
            ("pub", [use_, rest @ ..]) if is_word(use_, "use") => self.read_use(rest, true),
            // Not the `use<'a>` of a bound.
            ("use", [next, ..]) if !is_punct(next, '<') => self.read_use(after, false),
            ("struct" | "enum" | "union" | "trait" | "type" | "fn" | "static" | "const", [name, ..]) => {
                match name {
                    TokenTree::Ident(name) if is_top && name != "fn" => {
                        self.defined.insert(name.to_string());
                        &after[1..]
                    }
                    _ => after,
                }
            }
            _ => {
                let mut path = vec![word.to_owned()];
                let mut rest = after;
                while let [first, second, TokenTree::Ident(next), more @ ..] = rest
                    && is_punct(first, ':')
                    && is_punct(second, ':')
                {
                    path.push(next.to_string());
                    rest = more;
                }
                self.paths.insert(path);
                rest
            }
        }
    }

    fn read_use<'a>(&mut self, tokens: &'a [TokenTree], is_public: bool) -> &'a [TokenTree] {
        let end = tokens.iter().position(|token| is_punct(token, ';')).unwrap();
        self.read_use_tree(&tokens[..end], Vec::new(), is_public);
        &tokens[end + 1..]
    }

    fn read_use_tree(&mut self, tokens: &[TokenTree], mut path: Vec<String>, is_public: bool) {
        let mut name = None;
        for (i, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    name = tokens.get(i + 1).map(ToString::to_string);
                    break;
                }
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Punct(star) if star.as_char() == '*' => name = Some("*".to_owned()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for tree in inner.split(|token| is_punct(token, ',')).filter(|tree| !tree.is_empty()) {
                        self.read_use_tree(tree, path.clone(), is_public);
                    }
                    return;
                }
                _ => {}
            }
        }
        // `use store::{self, Store}`
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = name.unwrap_or_else(|| path.last().cloned().unwrap_or_default());
        self.imports.push(Import { path, name, is_public });
    }
}

fn is_punct(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == word)
}

fn is_for_tests(attribute: &Group) -> bool {
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    text.starts_with("cfg(test") || text.starts_with("cfg(all(test")
}

/// The file of a child module, and the folder of that one's children.
fn find_file(folder: &Path, child: &str) -> (PathBuf, PathBuf) {
    let (alone, inside) = (folder.join(format!("{child}.rs")), folder.join(child).join("mod.rs"));
    (if alone.exists() { alone } else { inside }, folder.join(child))
}
