//! Checks that the source tree follows its architecture
//! (`docs/ARCHITECTURE.md`). The rules cover dependencies between folders,
//! cycles among siblings, file lengths, and names.
//!
//! The sources are parsed with `syn`. Paths are collected from `use` items
//! (grouped, renamed, re-exported), expressions, types, and macro calls, and may start
//! with `crate`, `self`, or `super`. Items behind `#[cfg(test)]` are ignored.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree, Visibility};

/// The folders in `src/` from top to bottom. Each folder may use the folders
/// below it.
const ORDER: [&str; 15] = [
    "cli", "daemon", "api", "config", "events", "counts", "learning", "training", "indicate",
    "decision", "vision", "camera", "frame", "onnx", "platform",
];

/// Edges that the order allows but the design forbids, because training on a
/// data set must not depend on how verdicts are used.
const FORBIDDEN: [(&str, &str); 2] = [("training", "indicate"), ("training", "decision")];

/// Maximum number of files and folders directly in `src/`.
const MAX_TOP_LEVEL: usize = 17;

/// Maximum number of lines in a file, not counting its tests.
const MAX_LINES: usize = 800;

/// Crates that need Linux, and the files that use them. Each is one module of the platform
/// seam: another module takes its place on other systems.
const LINUX_CRATES: [(&str, &[&str]); 4] = [
    ("gpiocdev", &["indicate/pins/drivers/chip.rs"]),
    ("nokhwa", &["camera/v4l.rs"]),
    (
        "rppal",
        &[
            "indicate/pins/drivers/mod.rs",
            "indicate/pins/drivers/pi.rs",
        ],
    ),
    ("sd-notify", &["daemon/service_manager.rs"]),
];

/// Names that this project invented, and has since replaced with established terms.
const RETIRED_NAMES: [&str; 55] = [
    "Pupil",
    "Lessons",
    "Keeper",
    "Watch",
    "Eyes",
    "Pace",
    "News",
    "Still",
    "waiting_room",
    "Show",
    "Desk",
    "Wanted",
    "Back",
    "Marking",
    "Mark",
    "Marked",
    "Chosen",
    "Which",
    "Double",
    "Gallery",
    "Shot",
    "Site",
    "converse",
    "Scene",
    "Judge",
    "Doubt",
    "Look",
    "Team",
    "Halve",
    "Taps",
    "PixelTaps",
    "Unfold",
    "Sides",
    "spare",
    "Study",
    "Studied",
    "Held",
    "Stop",
    "told",
    "House",
    "Talk",
    "Wish",
    "Nonsense",
    "Chooser",
    "Aside",
    "Listed",
    "Interrupted",
    "Make",
    "Sometimes",
    "Reach",
    "Blocks",
    "Strain",
    "Condition",
    "Pulse",
    "lessons",
];

/// The path of a module below the crate, such as `["learning", "refit",
/// "gate"]`.
type Module = Vec<String>;

/// The declarations and references in a source file, without its tests.
#[derive(Default)]
struct Source {
    lines: usize,
    /// Paths that the file refers to, starting below the crate.
    references: BTreeSet<Module>,
    /// Maps the name of each re-export in this module to its absolute path.
    reexports: BTreeMap<String, Module>,
    /// Names of structs, enums, traits, type aliases, functions, and modules.
    declared: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Returns the module of a file. Both `src/learning/refit/mod.rs` and
/// `src/learning/refit.rs` are `learning::refit`.
fn module_of(file: &Path) -> Module {
    let below = file.strip_prefix(root().join("src")).unwrap();
    let mut parts: Vec<String> = below
        .with_extension("")
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if ["mod", "lib", "main"].contains(&parts.last().unwrap().as_str()) {
        parts.pop();
    }
    parts
}

fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|word| word == "test")
    })
}

/// Collects the references in a file. `module` is the module being visited.
struct Walk {
    file: Module,
    module: Module,
    source: Source,
}

impl Walk {
    /// Returns the absolute path of `segments` below the crate if they start
    /// with `crate`, `self`, `super`, or a child module of this file (`children`).
    fn absolute(&self, segments: &[String]) -> Option<Module> {
        let mut module = self.module.clone();
        let mut rest = segments;
        match segments.first()?.as_str() {
            "crate" => {
                module.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            _ => return None,
        }
        module.extend(rest.iter().cloned());
        Some(module)
    }

    fn refer(&mut self, segments: &[String]) {
        if let Some(path) = self.absolute(segments) {
            self.source.references.insert(path);
        }
    }

    fn import(&mut self, tree: &UseTree, before: &[String], is_public: bool) {
        let mut path = before.to_vec();
        match tree {
            UseTree::Path(inner) => {
                path.push(inner.ident.to_string());
                self.import(&inner.tree, &path, is_public);
            }
            UseTree::Group(group) => {
                for inner in &group.items {
                    self.import(inner, &path, is_public);
                }
            }
            UseTree::Glob(_) => self.bind(&path, None, is_public),
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                if name != "self" {
                    path.push(name.clone());
                }
                self.bind(&path, Some(name), is_public);
            }
            UseTree::Rename(rename) => {
                path.push(rename.ident.to_string());
                self.bind(&path, Some(rename.rename.to_string()), is_public);
            }
        }
    }

    fn bind(&mut self, path: &[String], name: Option<String>, is_public: bool) {
        // A path such as `child::Item` starts with a child of this module.
        let absolute = self.absolute(path).unwrap_or_else(|| {
            let mut module = self.module.clone();
            module.extend(path.iter().cloned());
            module
        });
        if is_public
            && self.module == self.file
            && let Some(name) = name
        {
            self.source.reexports.insert(name, absolute.clone());
        }
        self.source.references.insert(absolute);
    }

    fn declare(&mut self, name: &syn::Ident) {
        self.source.declared.insert(name.to_string());
    }

    /// Collects paths from the tokens in a macro call, which `syn` does not
    /// parse.
    fn tokens(&mut self, stream: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in stream {
            match token {
                TokenTree::Ident(word) => {
                    if colons != 2 {
                        self.refer(&path);
                        path.clear();
                    }
                    path.push(word.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.refer(&path);
                    path.clear();
                    colons = 0;
                    self.tokens(group.stream());
                }
                _ => {
                    self.refer(&path);
                    path.clear();
                    colons = 0;
                }
            }
        }
        self.refer(&path);
    }
}

macro_rules! visit_declarations {
    ($($visit:ident: $item:ident, $($name:ident).+;)+) => {
        $(fn $visit(&mut self, item: &'ast syn::$item) {
            if is_test_only(&item.attrs) {
                return;
            }
            self.declare(&item.$($name).+);
            visit::$visit(self, item);
        })+
    };
}

impl<'ast> Visit<'ast> for Walk {
    visit_declarations! {
        visit_item_struct: ItemStruct, ident;
        visit_item_enum: ItemEnum, ident;
        visit_item_trait: ItemTrait, ident;
        visit_item_type: ItemType, ident;
        visit_item_fn: ItemFn, sig.ident;
        visit_impl_item_fn: ImplItemFn, sig.ident;
        visit_trait_item_fn: TraitItemFn, sig.ident;
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_test_only(&item.attrs) {
            return;
        }
        self.declare(&item.ident);
        if item.content.is_some() {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_test_only(&item.attrs) {
            let is_public = !matches!(item.vis, Visibility::Inherited);
            self.import(&item.tree, &[], is_public);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.refer(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn parse(file: &Path) -> Source {
    let text = fs::read_to_string(file).unwrap();
    let module = module_of(file);
    let mut walk = Walk {
        file: module.clone(),
        module,
        source: Source {
            lines: text
                .lines()
                .take_while(|line| !line.starts_with("#[cfg(test)]"))
                .count(),
            ..Source::default()
        },
    };
    walk.visit_file(&syn::parse_file(&text).unwrap());
    walk.source
}

/// Returns all source files of the program, except for files named `tests.rs`,
/// because they contain only tests.
fn sources() -> BTreeMap<Module, Source> {
    rust_files(&root().join("src"))
        .iter()
        .filter(|file| {
            !["tests.rs", "lib.rs", "main.rs"]
                .contains(&file.file_name().unwrap().to_str().unwrap())
        })
        .map(|file| (module_of(file), parse(file)))
        .collect()
}

/// Follows re-exports, and returns the file that contains the item at this path.
fn resolve(path: &[String], sources: &BTreeMap<Module, Source>, depth: usize) -> Option<Module> {
    let length = (1..=path.len())
        .rev()
        .find(|length| sources.contains_key(&path[..*length]))?;
    let module = &path[..length];
    let reexport = path
        .get(length)
        .and_then(|name| sources[module].reexports.get(name));
    match reexport {
        Some(target) if depth > 0 && target.as_slice() != path => {
            let mut target = target.clone();
            target.extend(path[length + 1..].iter().cloned());
            resolve(&target, sources, depth - 1).or_else(|| Some(module.to_vec()))
        }
        _ => Some(module.to_vec()),
    }
}

/// Returns all pairs of files in which the first file uses the second.
fn edges(sources: &BTreeMap<Module, Source>) -> BTreeSet<(Module, Module)> {
    let mut edges = BTreeSet::new();
    for (module, source) in sources {
        for reference in &source.references {
            if let Some(target) = resolve(reference, sources, 8)
                && target != *module
            {
                edges.insert((module.clone(), target));
            }
        }
    }
    edges
}

/// Returns the nodes along a cycle, or `None` if there is no cycle.
fn cycle(edges: &BTreeSet<(String, String)>) -> Option<Vec<String>> {
    fn visit(
        node: &str,
        edges: &BTreeSet<(String, String)>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|before| before == node) {
            return Some(path[start..].to_vec());
        }
        if done.contains(node) {
            return None;
        }
        path.push(node.to_owned());
        for (_, target) in edges.iter().filter(|(from, _)| from == node) {
            if let Some(found) = visit(target, edges, path, done) {
                return Some(found);
            }
        }
        path.pop();
        done.insert(node.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    edges
        .iter()
        .find_map(|(from, _)| visit(from, edges, &mut Vec::new(), &mut done))
}

#[test]
fn folders_use_only_what_stands_below_them() {
    let place = |module: &Module| {
        let folder = &module[0];
        let place = ORDER.iter().position(|name| name == folder);
        place.unwrap_or_else(|| panic!("src/{folder} has no place in ORDER"))
    };
    let wrong: Vec<String> = edges(&sources())
        .iter()
        .filter(|(from, to)| {
            place(from) > place(to) || FORBIDDEN.contains(&(from[0].as_str(), to[0].as_str()))
        })
        .map(|(from, to)| format!("{} uses {}", from.join("::"), to.join("::")))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn siblings_form_no_cycle() {
    let all = edges(&sources());
    let parents: BTreeSet<Module> = all
        .iter()
        .flat_map(|(from, to)| [from, to])
        .flat_map(|module| (0..module.len()).map(|length| module[..length].to_vec()))
        .collect();
    let mut cycles = Vec::new();
    for parent in parents {
        // A parent and its children belong together, so edges to and from the
        // parent are ignored.
        let depth = parent.len();
        let among: BTreeSet<(String, String)> = all
            .iter()
            .filter(|(from, to)| {
                from.len() > depth
                    && to.len() > depth
                    && from.starts_with(&parent)
                    && to.starts_with(&parent)
                    && from[depth] != to[depth]
            })
            .map(|(from, to)| (from[depth].clone(), to[depth].clone()))
            .collect();
        if let Some(found) = cycle(&among) {
            cycles.push(format!("{}: {}", parent.join("::"), found.join(" -> ")));
        }
    }
    assert!(cycles.is_empty(), "{cycles:#?}");
}

#[test]
fn the_top_of_the_source_tree_is_short() {
    let names: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.len() <= MAX_TOP_LEVEL, "{names:#?}");
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|(_, source)| source.lines > MAX_LINES)
        .map(|(module, source)| format!("{}: {} lines", module.join("::"), source.lines))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn retired_names_are_not_declared() {
    let mut found = Vec::new();
    for (module, source) in sources() {
        for name in RETIRED_NAMES {
            if source.declared.contains(name) {
                found.push(format!("{} declares {name}", module.join("::")));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn only_onnx_knows_tract_and_only_cli_and_indicate_know_the_terminal() {
    for file in rust_files(&root().join("src")) {
        let Some(folder) = module_of(&file).first().cloned() else {
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let knows = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let name = file.display();
        if folder != "onnx" {
            assert!(!knows(&["tract_onnx", "prost::"]), "{name} knows tract");
        }
        if !["cli", "indicate"].contains(&folder.as_str()) {
            assert!(
                !knows(&["println!", "print!", "indicatif"]),
                "{name} knows the terminal"
            );
        }
    }
}

#[test]
fn linux_crates_are_used_behind_the_platform_seam() {
    for file in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim().starts_with("//"));
        let code: Vec<&str> = code.collect();
        let below = file.strip_prefix(root().join("src")).unwrap();
        for (name, users) in LINUX_CRATES {
            let path = format!("{}::", name.replace('-', "_"));
            let uses = code.iter().any(|line| line.contains(&path));
            let may = users.iter().any(|user| below == Path::new(user));
            assert_eq!(uses, may, "{} and the crate {name}", below.display());
        }
    }
}

#[test]
fn a_mac_needs_no_linux_crate() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let linux = &manifest["target"]["cfg(target_os = \"linux\")"]["dependencies"];
    for (name, _) in LINUX_CRATES {
        assert!(manifest["dependencies"].get(name).is_none(), "{name}");
        assert!(linux.get(name).is_some(), "{name}");
    }
    let tree = |target: &str| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args([
            "tree",
            "--locked",
            "--offline",
            "--all-features",
            "--prefix=none",
            "--format={p}",
            "--edges=normal,build",
        ]);
        let output = cargo.arg(format!("--target={target}")).output().unwrap();
        let crates = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(crates).ok_or(error)
    };
    match tree("aarch64-apple-darwin") {
        Ok(crates) => {
            // The drivers consist of several crates, such as nokhwa-core.
            for (name, _) in LINUX_CRATES {
                assert!(!crates.contains(name), "{name}\n{crates}");
            }
            assert!(crates.contains("tract-onnx"), "{crates}");
            let here = tree("x86_64-unknown-linux-gnu").unwrap();
            assert!(LINUX_CRATES.iter().all(|(name, _)| here.contains(name)));
        }
        Err(error) => println!(
            "skipped: the crates for a Mac have not been downloaded; run cargo fetch --locked \
             --target aarch64-apple-darwin ({})",
            error.lines().next().unwrap_or_default()
        ),
    }
}

/// Returns the source paths that a document mentions. They may be relative to
/// `src/` or start with one of its folders.
fn named_sources(document: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let words = text.split(|c: char| c.is_whitespace() || "`()[]<>\"',;|".contains(c));
    words
        .map(|word| word.trim_end_matches(['.', ':']).trim_start_matches("../"))
        .filter(|word| !word.contains(['*', '{', '…', '=']))
        .filter_map(|word| match word.split_once('/')? {
            ("src", _) => Some(word.to_owned()),
            (folder, rest)
                if ORDER.contains(&folder) && (rest.is_empty() || rest.contains(".rs")) =>
            {
                Some(format!("src/{word}"))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn documents_name_files_that_exist() {
    let mut missing = Vec::new();
    let mut seen = 0;
    for document in [
        "docs/ARCHITECTURE.md",
        "docs/TRAINING.md",
        "CONTRIBUTING.md",
        "README.md",
    ] {
        for path in named_sources(document) {
            seen += 1;
            if !root().join(&path).exists() {
                missing.push(format!("{document} names {path}"));
            }
        }
    }
    assert!(seen > ORDER.len(), "only {seen} paths were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Returns the path of every Markdown file that belongs to the project.
fn markdown_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_foreign = name == "target" || (name.starts_with('.') && name != ".github");
            if path.is_dir() && !path.is_symlink() && !is_foreign {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// Returns the text of a Markdown file without its code blocks.
fn prose(text: &str) -> String {
    text.split("\n```")
        .step_by(2)
        .collect::<Vec<&str>>()
        .join("\n")
}

/// Returns the targets of the links and pictures in Markdown text.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        .collect()
}

/// Returns the anchors that GitHub gives the headings in Markdown text.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter_map(|c| match c {
                ' ' => Some('-'),
                '-' | '_' => Some(c),
                c => c.is_alphanumeric().then_some(c),
            });
            kept.collect()
        })
        .collect()
}

/// Returns why a link in the file leads nowhere, or `None` if its target exists. Links to other
/// sites are not checked.
fn broken(file: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => file.to_path_buf(),
        _ => file.parent()?.join(path),
    };
    if !target.exists() {
        return Some(format!("{} links to {link}", file.display()));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = prose(&fs::read_to_string(target).ok()?);
    let is_known = anchors(&text).contains(anchor);
    (!is_known).then(|| format!("{} links to {link}, a missing heading", file.display()))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut seen = 0;
    let mut all_broken = Vec::new();
    for file in markdown_files() {
        let text = prose(&fs::read_to_string(&file).unwrap());
        for link in links(&text) {
            seen += 1;
            all_broken.extend(broken(&file, link));
        }
    }
    assert!(seen > 100, "only {seen} links were found");
    assert!(all_broken.is_empty(), "{all_broken:#?}");
    let readme = root().join("README.md");
    assert!(broken(&readme, "docs/none.md").is_some());
    assert!(broken(&readme, "#no-such-heading").is_some());
}

/// Tests that the checks find violations in synthetic sources.
mod checks {
    use super::*;

    fn walk(module: &[&str], text: &str) -> Source {
        let module: Module = module.iter().map(ToString::to_string).collect();
        let mut walk = Walk {
            file: module.clone(),
            module,
            source: Source::default(),
        };
        walk.visit_file(&syn::parse_file(text).unwrap());
        walk.source
    }

    fn named(module: &[&str]) -> Module {
        module.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn imports_are_resolved_in_every_form() {
        let source = walk(
            &["b", "inner"],
            "use crate::{a::{One, two}, c as see};
             use super::sibling::Three;
             pub use self::child::Four as Five;
             fn f() { let _ = format!(\"{}\", crate::d::six()); crate::e::seven(); }
             #[cfg(test)]
             mod tests { use crate::z::Z; fn told() {} }",
        );
        for path in [
            named(&["a", "One"]),
            named(&["a", "two"]),
            named(&["c"]),
            named(&["b", "sibling", "Three"]),
            named(&["b", "inner", "child", "Four"]),
            named(&["d", "six"]),
            named(&["e", "seven"]),
        ] {
            assert!(source.references.contains(&path), "{path:?}");
        }
        assert!(!source.references.contains(&named(&["z", "Z"])));
        assert!(!source.declared.contains("told"));
        assert_eq!(
            source.reexports["Five"],
            named(&["b", "inner", "child", "Four"])
        );
    }

    #[test]
    fn reexports_lead_to_the_file_that_declares() {
        let sources: BTreeMap<Module, Source> = [
            (named(&["a"]), walk(&["a"], "pub use inner::Thing;")),
            (
                named(&["a", "inner"]),
                walk(&["a", "inner"], "pub struct Thing;"),
            ),
            (named(&["b"]), walk(&["b"], "use crate::a::Thing;")),
        ]
        .into();
        assert!(edges(&sources).contains(&(named(&["b"]), named(&["a", "inner"]))));
    }

    #[test]
    fn a_cycle_is_found() {
        let pairs = |list: &[(&str, &str)]| -> BTreeSet<(String, String)> {
            list.iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect()
        };
        assert!(cycle(&pairs(&[("a", "b"), ("b", "c"), ("c", "a")])).is_some());
        assert!(cycle(&pairs(&[("a", "b"), ("a", "c"), ("b", "c")])).is_none());
    }
}
