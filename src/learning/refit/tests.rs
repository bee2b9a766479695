use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::evaluate::accuracy;
use super::grow::NEW_CLASS_MARGIN;
use super::*;
use crate::learning::replay::Replay;
use crate::training::train::{TrainOptions, Trainer};
use crate::vision::embed::FEATURES;
use crate::vision::head::argmax;

/// Number of signal features of each class. The features `0..SIGNAL` are high for a
/// mask, and the features `SIGNAL..2 * SIGNAL` are high for a bare face.
const SIGNAL: usize = 40;
/// Number of glare features, which come after the signal features. On the device, the
/// glare features of every face are higher than on the old camera.
const GLARE: usize = 30;

/// Synthetic features of two classes, seen by two cameras: the old camera and the
/// camera of the device. A row has high values in the signal features of its class. On
/// the device, the signal features of class 0 are dim, so a head that was trained for
/// the old camera mistakes most pictures of class 0 for class 1.
pub(super) struct TwoCameras {
    rng: ChaCha8Rng,
    labels: Vec<String>,
    pub(super) base: HeadTensors,
    pub(super) replay: Replay,
}

impl TwoCameras {
    pub(super) fn new(seed: u64) -> TwoCameras {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let train = rows(&mut rng, 120, false);
        let holdout = rows(&mut rng, 200, false);
        let options = TrainOptions {
            hidden: 8,
            init_lr: 1e-3,
            seed,
            ..TrainOptions::default()
        };
        let mut trainer = Trainer::new(2, options).unwrap();
        for _ in 0..200 {
            trainer.step(&train.features, &train.labels).unwrap();
        }
        let labels = vec!["mask".to_owned(), "bare".to_owned()];
        TwoCameras {
            base: trainer.tensors(),
            replay: Replay {
                backbone_sha256: [0; 32],
                labels: labels.clone(),
                train,
                holdout,
            },
            labels,
            rng,
        }
    }

    /// Makes `of_each` samples of each class, each with its own track.
    fn samples(&mut self, of_each: usize) -> Vec<Sample> {
        let rows = rows(&mut self.rng, 2 * of_each, true);
        let (features, _) = rows.features.as_chunks::<FEATURES>();
        let crops = features.iter().zip(&rows.labels);
        crops
            .enumerate()
            .map(|(number, (features, label))| Sample {
                id: format!("crop {number}"),
                label: *label,
                track: format!("track {number}"),
                day: "2026-01-02".to_owned(),
                features: features.to_vec(),
                seen: false,
            })
            .collect()
    }

    fn input<'a>(&'a self, samples: &'a [Sample]) -> RefitInput<'a> {
        RefitInput {
            labels: &self.labels,
            masked_labels: &self.labels[..1],
            champion: &self.base,
            champion_labels: &self.labels,
            base: &self.base,
            base_labels: &self.labels,
            samples,
            replay: Some(&self.replay),
        }
    }

    /// Returns the base head with the additional class `chin`, and its labels.
    fn grown(&self) -> (HeadTensors, [String; 3]) {
        let labels = ["mask", "bare", "chin"].map(str::to_owned);
        (
            grow(self.base.clone(), &self.labels, &labels).unwrap(),
            labels,
        )
    }

    fn fit(&self, samples: &[Sample], options: &RefitOptions) -> Fit {
        fit(&self.input(samples), options, &|| false).unwrap()
    }

    fn refusal(&self, samples: &[Sample]) -> Refusal {
        let fit = self.fit(samples, &options());
        assert_eq!(fit.head, None);
        match fit.outcome.decision {
            GateDecision::Refused(refusal) => {
                assert_eq!(fit.outcome.reason, refusal.to_string());
                refusal
            }
            other => panic!("it was not refused: {other:?}"),
        }
    }
}

/// Calls `work` with the context of a refit.
fn in_context<T>(input: &RefitInput, work: impl FnOnce(RefitContext) -> T) -> T {
    let options = options();
    let (replay, _) = input.checked().unwrap();
    let (grouped, _) = input
        .grouped(&replay, &options.hold_out, &|| false)
        .unwrap();
    let kinds = Classes::new(input, &grouped);
    work(RefitContext::new(
        input,
        &options,
        &|| false,
        &grouped,
        &replay,
        &kinds,
    ))
}

fn options() -> RefitOptions {
    RefitOptions {
        fit: FitOptions {
            steps: 120,
            learning_rate: 1e-3,
            ..FitOptions::default()
        },
        // Rows of one class differ only in noise here, which does not make them near-duplicates.
        hold_out: HoldOutOptions {
            near_duplicate: 0.0,
            ..HoldOutOptions::default()
        },
        ..RefitOptions::default()
    }
}

/// Makes `count` rows that alternate between the two classes.
fn rows(rng: &mut ChaCha8Rng, count: usize, is_device: bool) -> Rows {
    let mut rows = Rows::default();
    for number in 0..count {
        let label = number % 2;
        let features: Vec<f32> = (0..FEATURES)
            .map(|feature| {
                let noise = 2.0 * rng.random::<f32>();
                let class = feature / SIGNAL;
                let dim = if is_device && class == 0 { 0.45 } else { 1.0 };
                match class {
                    0 | 1 if class == label => dim * (0.6 + noise),
                    0 | 1 => dim * noise,
                    _ if feature < 2 * SIGNAL + GLARE => f32::from(u8::from(is_device)) + noise,
                    _ => 0.2 * noise,
                }
            })
            .collect();
        rows.push(&features, label);
    }
    rows
}

fn share_right(head: &HeadTensors, rows: &Rows) -> f64 {
    let is_right = |logits: &[f64], label| argmax(logits.iter()) == Some(label);
    accuracy(head, rows, is_right).unwrap()
}

#[test]
fn a_few_crops_of_a_new_camera_are_learned_and_nothing_is_forgotten() {
    let mut accepted = 0;
    for seed in 0..6 {
        let mut data = TwoCameras::new(seed);
        let test = rows(&mut data.rng, 400, true);
        let samples = data.samples(10);
        let before = share_right(&data.base, &test);
        assert!(before < 0.85, "the camera is no challenge: {before}");
        let fit = data.fit(&samples, &options());
        let measured = fit.outcome.measured.unwrap();
        assert_eq!(
            measured.training.validation,
            Validation::CrossValidation { folds: 5 }
        );
        assert_eq!(measured.after.samples, 20);
        assert_eq!(fit.outcome.warning, None);
        if let Some(head) = &fit.head {
            accepted += 1;
            assert_eq!(fit.outcome.decision, GateDecision::Accepted);
            assert_eq!(fit.outcome.learned.len(), 20);
            let after = share_right(head, &test);
            assert!(after > before + 0.03, "{before} {after}");
            let old = share_right(head, &data.replay.holdout);
            let replay = measured.replay.unwrap();
            assert_eq!(old, replay.after);
            assert!(old >= replay.before - options().gate.replay_tolerance);
        }
    }
    assert!(accepted >= 5, "only {accepted} of 6 were accepted");
}

/// Refits on samples. The fraction `share` of the samples has wrong labels. Returns the
/// accuracy of the new head on the device minus the accuracy of the base head, or
/// `None` if no head was accepted.
fn change_with_wrong_labels(share: f64, seed: u64, has_replay: bool) -> Option<f64> {
    let mut data = TwoCameras::new(100 + seed);
    let test = rows(&mut data.rng, 400, true);
    let mut samples = data.samples([5, 10, 20][seed as usize % 3]);
    for sample in &mut samples {
        if data.rng.random::<f64>() < share {
            sample.label = 1 - sample.label;
        }
    }
    let mut input = data.input(&samples);
    if !has_replay {
        input.replay = None;
    }
    let head = fit(&input, &options(), &|| false).unwrap().head?;
    Some(share_right(&head, &test) - share_right(&data.base, &test))
}

#[test]
fn wrong_labels_do_not_make_a_worse_head() {
    for (share, accepted) in [(0.1, 3..=6), (0.3, 0..=3), (0.5, 0..=1)] {
        let changes: Vec<f64> = (0..6)
            .filter_map(|seed| change_with_wrong_labels(share, seed, true))
            .collect();
        assert!(accepted.contains(&changes.len()), "{share}: {changes:?}");
        let is_harmless = |change: &f64| *change >= -0.02;
        assert!(changes.iter().all(is_harmless), "{share}: {changes:?}");
    }
}

#[test]
fn checked_labels_are_not_refused_for_what_they_look_like() {
    for seed in 0..3 {
        let mut data = TwoCameras::new(200 + seed);
        let mut samples = data.samples(10);
        for sample in &mut samples {
            sample.label = 1 - sample.label;
        }
        let refused = data.fit(&samples, &options()).outcome;
        let GateDecision::Refused(refusal @ Refusal::LabelsDisagree { .. }) = refused.decision
        else {
            panic!("{}", refused.reason);
        };
        assert!(!refused.labels_checked);
        let mut options = options();
        options.gate.labels_checked = true;
        let outcome = data.fit(&samples, &options).outcome;
        assert!(outcome.labels_checked);
        let warning = outcome.warning.unwrap();
        assert!(warning.contains(&refusal.to_string()), "{warning}");
        // The other checks still apply. The labels contradict everything that the built-in
        // head knows.
        let GateDecision::Refused(refusal) = outcome.decision else {
            continue;
        };
        let is_other = matches!(
            refusal,
            Refusal::NoGain { .. } | Refusal::LessAccurate { .. } | Refusal::Forgets { .. }
        );
        assert!(is_other, "{refusal}");
    }
}

#[test]
fn missing_samples_are_named_in_the_refusal() {
    let mut data = TwoCameras::new(1);
    assert_eq!(data.refusal(&[]), Refusal::NoSamples);
    let samples = data.samples(6);
    let masks: Vec<Sample> = samples
        .iter()
        .filter(|sample| sample.label == 0)
        .cloned()
        .collect();
    let label = "mask".to_owned();
    assert_eq!(data.refusal(&masks), Refusal::OneClass { label });
    let one_each = &samples[..2];
    let refusal = data.refusal(one_each);
    let expected = matches!(
        refusal,
        Refusal::TooFewGroups {
            groups: 1,
            needed: 2,
            ..
        }
    );
    assert!(expected, "{refusal}");
    // Put all crops of a class into one track.
    let mut one_track = samples.clone();
    for sample in &mut one_track {
        sample.track = format!("class {}", sample.label);
    }
    let refusal = data.refusal(&one_track);
    let expected = matches!(refusal, Refusal::TooFewGroups { groups: 1, .. });
    assert!(expected, "{refusal}");
    let advice = data.fit(&one_track, &options()).outcome.advice;
    let has = |wanted: fn(&Advice) -> bool| advice.iter().any(wanted);
    assert!(has(|advice| matches!(
        advice,
        Advice::MoreTracks { groups: 1, .. }
    )));
    assert!(has(|advice| matches!(advice, Advice::AnotherDay { .. })));
}

#[test]
fn samples_that_cannot_be_used_are_skipped_and_named() {
    let mut data = TwoCameras::new(2);
    let mut samples = data.samples(8);
    samples[3].features[700] = f32::NAN;
    samples[4].features.pop();
    samples[5].features.clear();
    samples[6].label = 2;
    let fit = data.fit(&samples, &options());
    let skipped: Vec<(&str, SkipReason)> = fit
        .outcome
        .skipped
        .iter()
        .map(|skipped| (skipped.id.as_str(), skipped.reason))
        .collect();
    let expected = [
        ("crop 3", SkipReason::NotFinite),
        ("crop 4", SkipReason::Size),
        ("crop 5", SkipReason::Size),
        ("crop 6", SkipReason::Label),
    ];
    assert_eq!(skipped, expected);
    assert_eq!(fit.outcome.measured.unwrap().after.samples, 12);
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let mut data = TwoCameras::new(3);
    let samples = data.samples(10);
    let first = data.fit(&samples, &options());
    assert!(first.head.is_some(), "{}", first.outcome.reason);
    assert_eq!(first, data.fit(&samples, &options()));
    let other = RefitOptions {
        seed: 43,
        ..options()
    };
    assert_ne!(first.head, data.fit(&samples, &other).head);
}

#[test]
fn it_stops_when_it_is_cancelled() {
    let mut data = TwoCameras::new(4);
    let samples = data.samples(5);
    let calls = std::cell::Cell::new(0);
    let cancelled = || {
        calls.set(calls.get() + 1);
        calls.get() > 30
    };
    assert_eq!(
        fit(&data.input(&samples), &options(), &cancelled),
        Err(RefitError::Cancelled)
    );
    assert_eq!(calls.get(), 31);
}

#[test]
fn numbers_that_are_not_finite_never_become_a_head() {
    let mut data = TwoCameras::new(5);
    let samples = data.samples(5);
    let mut options = options();
    options.fit.learning_rate = 1e30;
    options.fit.adaptations = vec![Adaptation::PlainReplay, Adaptation::TranslatedReplay];
    let fit = data.fit(&samples, &options);
    assert_eq!(fit.head, None);
    assert_eq!(
        fit.outcome.decision,
        GateDecision::Refused(Refusal::NotFinite)
    );
}

#[test]
fn an_adaptation_whose_numbers_are_not_finite_is_left_out() {
    let mut data = TwoCameras::new(5);
    let samples = data.samples(5);
    let mut options = options();
    options.fit.learning_rate = 1e30;
    let input = data.input(&samples);
    let (replay, holdout) = input.checked().unwrap();
    let (grouped, _) = input
        .grouped(&replay, &options.hold_out, &|| false)
        .unwrap();
    let kinds = Classes::new(&input, &grouped);
    let context = RefitContext::new(&input, &options, &|| false, &grouped, &replay, &kinds);
    let split = split(&grouped, 2, &options.hold_out);
    let held_out = context.held_out(&input, &split).unwrap();
    let candidates = context.candidates(&input, &held_out, &split, &holdout);
    let left: Vec<Adaptation> = candidates
        .unwrap()
        .iter()
        .map(|candidate| candidate.adaptation)
        .collect();
    assert_eq!(left, [Adaptation::Logits]);
}

#[test]
fn input_that_does_not_fit_is_an_error() {
    let mut data = TwoCameras::new(6);
    let samples = data.samples(2);
    let input = data.input(&samples);
    let refused =
        |input: &RefitInput, options: &RefitOptions| fit(input, options, &|| false).unwrap_err();
    let three = ["mask", "bare", "chin"].map(str::to_owned);
    let wrong_head = RefitInput {
        labels: &three,
        ..input
    };
    let error = refused(&wrong_head, &options());
    assert!(matches!(error, RefitError::Head { .. }), "{error}");
    let others = ["a", "b"].map(str::to_owned);
    let other_labels = RefitInput {
        labels: &others,
        ..input
    };
    let error = refused(&other_labels, &options());
    assert!(matches!(error, RefitError::Replay(_)), "{error}");
    let mut wrong = options();
    wrong.fit.steps = 0;
    let error = refused(&input, &wrong);
    assert!(matches!(error, RefitError::Options(_)), "{error}");
}

#[test]
fn a_wrong_label_is_pointed_at() {
    let mut data = TwoCameras::new(7);
    let mut samples = data.samples(20);
    for sample in &mut samples {
        for feature in &mut sample.features[SIGNAL * sample.label..][..SIGNAL] {
            *feature += 1.5;
        }
    }
    samples[8].label = 1 - samples[8].label;
    let outcome = data.fit(&samples, &options()).outcome;
    let measured = outcome.measured.unwrap();
    assert_eq!(measured.worst[0].id, "crop 8");
    let suspects: Vec<&str> = measured
        .suspects
        .iter()
        .map(|suspect| suspect.id.as_str())
        .collect();
    assert_eq!(suspects, ["crop 8"]);
    let check = Advice::CheckLabels { suspects: 1 };
    assert!(outcome.advice.contains(&check));
}

#[test]
fn a_champion_is_not_judged_by_what_it_learned() {
    let mut data = TwoCameras::new(8);
    let mut samples = data.samples(12);
    for sample in &mut samples[..14] {
        sample.seen = true;
    }
    let measured = data.fit(&samples, &options()).outcome.measured.unwrap();
    assert_eq!(measured.before.samples, 10);
    for sample in &mut samples {
        sample.seen = true;
    }
    let measured = data.fit(&samples, &options()).outcome.measured.unwrap();
    assert_eq!(measured.before.samples, 24);
}

#[test]
fn a_head_from_elsewhere_is_judged_by_own_samples() {
    let mut data = TwoCameras::new(8);
    let theirs = data.samples(12);
    let learned = data.fit(&theirs, &options()).head.unwrap();
    let own = data.samples(12);
    let tried = |challenger: &HeadTensors, champion: &HeadTensors, own: &[Sample]| {
        let input = RefitInput {
            champion,
            ..data.input(own)
        };
        let mut options = options();
        options.gate.min_gain = 0.01;
        evaluate_foreign(&input, challenger, &options, &|| false)
    };
    let base = &data.base;
    let outcome = tried(&learned, base, &own).unwrap();
    assert_eq!(
        outcome.decision,
        GateDecision::Accepted,
        "{}",
        outcome.reason
    );
    assert_eq!(
        outcome.measured.unwrap().training.initial_head,
        InitialHead::Elsewhere
    );
    // First, the base head challenges the learned head. Then, the base head challenges
    // itself.
    for champion in [&learned, base] {
        let outcome = tried(base, champion, &own).unwrap();
        let is_no_gain = matches!(
            outcome.decision,
            GateDecision::Refused(Refusal::NoGain { .. }) | GateDecision::NothingToGain
        );
        assert!(is_no_gain, "{}", outcome.reason);
    }
    let mut spoilt = learned.clone();
    spoilt.b2[0] = f32::NAN;
    let refused = tried(&spoilt, base, &own).unwrap_err();
    assert!(refused.to_string().contains("not finite"), "{refused}");
    let outcome = tried(&learned, base, &[]).unwrap();
    assert_eq!(outcome.decision, GateDecision::Refused(Refusal::NoSamples));
    let outcome = tried(&learned, base, &own[..1]).unwrap();
    let is_one_class = matches!(
        outcome.decision,
        GateDecision::Refused(Refusal::OneClass { .. })
    );
    assert!(is_one_class, "{}", outcome.reason);
}

#[test]
fn a_spoilt_champion_is_not_trained_on() {
    let mut data = TwoCameras::new(9);
    let samples = data.samples(10);
    let mut champion = data.base.clone();
    champion.b2[0] += 30.0;
    let input = RefitInput {
        champion: &champion,
        ..data.input(&samples)
    };
    let outcome = fit(&input, &options(), &|| false).unwrap().outcome;
    assert_eq!(
        outcome.decision,
        GateDecision::Accepted,
        "{}",
        outcome.reason
    );
    assert_eq!(
        outcome.measured.unwrap().training.initial_head,
        InitialHead::Base
    );
}

#[test]
fn many_tracks_have_a_permanent_hold_out() {
    let mut data = TwoCameras::new(10);
    let samples = data.samples(60);
    let mut options = options();
    options.hold_out.min_groups = 5;
    let fit = data.fit(&samples, &options);
    let measured = fit.outcome.measured.unwrap();
    let Validation::HoldOut { groups } = measured.training.validation else {
        panic!("{:?}", measured.training.validation);
    };
    assert_eq!(measured.after.samples, groups);
    assert_eq!(fit.outcome.learned.len(), 120 - groups);
}

#[test]
fn a_new_class_grows_the_head_and_is_learned() {
    let mut data = TwoCameras::new(11);
    let grown = ["mask", "chin", "bare"].map(str::to_owned);
    let head = grow(data.base.clone(), &data.labels, &grown).unwrap();
    // For every known picture, the grown head computes the same logits of the known
    // classes as the base head.
    let before = logits(&data.base, &data.replay.holdout.features).unwrap();
    let after = logits(&head, &data.replay.holdout.features).unwrap();
    assert_eq!((before.len(), after.len()), (200, 200));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!([before[0], before[1]], [after[0], after[2]]);
        assert!(after[1] < after[0].max(after[2]) - f64::from(NEW_CLASS_MARGIN) + 1e-3);
    }

    let mut samples = data.samples(10);
    for (number, sample) in samples.iter_mut().enumerate() {
        sample.label *= 2;
        if number % 4 < 2 {
            sample.label = 1;
            for feature in &mut sample.features[600..700] {
                *feature += 2.0;
            }
        }
    }
    let input = RefitInput {
        labels: &grown,
        champion: &head,
        base: &head,
        ..data.input(&samples)
    };
    let outcome = fit(&input, &options(), &|| false).unwrap().outcome;
    assert_eq!(
        outcome.decision,
        GateDecision::Accepted,
        "{}",
        outcome.reason
    );
    let measured = outcome.measured.unwrap();
    assert_eq!(measured.before.confusion[1][1], 0);
    assert!(measured.after.confusion[1][1] >= 5, "{:?}", measured.after);
    assert_eq!(measured.training.adaptation, Some(Adaptation::NewClasses));
    let points = measured.training.curve.iter();
    let steps: Vec<usize> = points.map(|point| point.steps).collect();
    assert_eq!(steps, [0, 400], "the training never stops early");
    let replay = measured.replay.unwrap();
    let tolerance = options().gate.replay_tolerance;
    assert!(replay.after >= replay.before - tolerance, "{replay:?}");

    assert!(grow(data.base.clone(), &data.labels, &grown[..2]).is_err());
    assert!(grow(data.base.clone(), &grown, &grown).is_err());
}

#[test]
fn a_new_class_changes_no_weight_of_the_others() {
    let mut data = TwoCameras::new(12);
    let (head, grown) = data.grown();
    let mut samples = data.samples(10);
    for sample in &mut samples[..6] {
        sample.label = 2;
    }
    let input = RefitInput {
        labels: &grown,
        champion: &head,
        base: &head,
        ..data.input(&samples)
    };
    let learned = in_context(&input, |context| {
        let context = RefitContext {
            adaptation: Adaptation::NewClasses,
            ..context
        };
        let all: Vec<usize> = (0..context.samples.len()).collect();
        context.learn_to(&head, &all, 20).unwrap()
    });
    let (hidden, known) = (head.b1.len(), data.base.b1.len());
    assert!(hidden > known);
    assert_eq!(learned.w1[..known * FEATURES], head.w1[..known * FEATURES]);
    assert_ne!(learned.w1[known * FEATURES..], head.w1[known * FEATURES..]);
    assert_eq!(learned.b1[..known], head.b1[..known]);
    assert_eq!(learned.w2[..2 * hidden], head.w2[..2 * hidden]);
    assert_ne!(learned.w2[2 * hidden..], head.w2[2 * hidden..]);
    assert_eq!(learned.b2[..2], head.b2[..2]);
}

#[test]
fn a_class_that_the_head_knows_is_refitted_with_all_adaptations() {
    let mut data = TwoCameras::new(14);
    let (head, grown) = data.grown();
    let mut samples = data.samples(10);
    samples[0].label = 2;
    let adaptations = |champion_labels: &[String], samples: &[Sample]| {
        let input = RefitInput {
            labels: &grown,
            champion: &head,
            base: &head,
            champion_labels,
            ..data.input(samples)
        };
        in_context(&input, |context| context.adaptations())
    };
    let usual = FitOptions::default().adaptations;
    assert_eq!(adaptations(&grown[..2], &samples[1..]), usual);
    assert_eq!(adaptations(&grown[..2], &samples), [Adaptation::NewClasses]);
    let all: Vec<Adaptation> = usual.into_iter().chain([Adaptation::NewClasses]).collect();
    assert_eq!(adaptations(&grown, &samples), all);
}

#[test]
fn without_a_replay_set_it_learns_and_says_what_is_not_checked() {
    let mut data = TwoCameras::new(13);
    let test = rows(&mut data.rng, 400, true);
    let samples = data.samples(10);
    let input = RefitInput {
        replay: None,
        ..data.input(&samples)
    };
    let fit = fit(&input, &options(), &|| false).unwrap();
    let outcome = fit.outcome;
    assert_eq!(
        outcome.decision,
        GateDecision::Accepted,
        "{}",
        outcome.reason
    );
    let warning = outcome.warning.unwrap();
    assert!(warning.contains("nothing keeps the new model from forgetting"));
    let measured = outcome.measured.unwrap();
    assert_eq!(measured.replay, None);
    assert!(measured.agreement.mean > 0.75, "{:?}", measured.agreement);
    assert!(measured.agreement.standard_error > 0.0);
    let before = share_right(&data.base, &test);
    let after = share_right(&fit.head.unwrap(), &test);
    assert!(after > before + 0.03, "{before} {after}");

    let foreign = evaluate_foreign(&input, &data.base, &options(), &|| false).unwrap();
    assert_eq!(foreign.measured.unwrap().replay, None);
    assert!(learn(&input, &options(), &|| false).unwrap().is_some());
}

#[test]
fn without_a_replay_set_wrong_labels_do_not_make_a_worse_head() {
    for (share, accepted) in [(0.1, 3..=6), (0.3, 0..=3), (0.5, 0..=1)] {
        let changes: Vec<f64> = (0..6)
            .filter_map(|seed| change_with_wrong_labels(share, seed, false))
            .collect();
        assert!(accepted.contains(&changes.len()), "{share}: {changes:?}");
        let is_harmless = |change: &f64| *change >= -0.02;
        assert!(changes.iter().all(is_harmless), "{share}: {changes:?}");
    }
}
