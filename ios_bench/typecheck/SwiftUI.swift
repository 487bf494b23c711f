// SwiftUI of Xcode 16, as far as the app uses it, with its isolation and its Sendable closures.

import Foundation

// MARK: state

public protocol ObservableObject: AnyObject {}

@propertyWrapper
public struct Published<Value> {
  public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }
  public var wrappedValue: Value
}

public protocol DynamicProperty {}

@MainActor
@propertyWrapper
public struct StateObject<Object: ObservableObject>: DynamicProperty {
  nonisolated public init(wrappedValue thunk: @autoclosure @escaping () -> Object) {}
  public var wrappedValue: Object { fatalError() }
}

@MainActor
@propertyWrapper
public struct ObservedObject<Object: ObservableObject>: DynamicProperty {
  @MainActor
  @dynamicMemberLookup
  public struct Wrapper {
    public subscript<Subject>(dynamicMember path: ReferenceWritableKeyPath<Object, Subject>) -> Binding<Subject> {
      fatalError()
    }
  }

  nonisolated public init(wrappedValue: Object) { self.wrappedValue = wrappedValue }
  public var wrappedValue: Object
  public var projectedValue: Wrapper { fatalError() }
}

@propertyWrapper
public struct Environment<Value>: DynamicProperty {
  public init(_ path: KeyPath<EnvironmentValues, Value>) {}
  public var wrappedValue: Value { fatalError() }
}

public struct EnvironmentValues {
  public var scenePhase: ScenePhase { fatalError() }
}

public enum ScenePhase: Comparable, Sendable {
  case background
}

@propertyWrapper
@dynamicMemberLookup
public struct Binding<Value> {
  init(hidden: Void) {}
  public var wrappedValue: Value { fatalError() }
  public subscript<Subject>(dynamicMember path: WritableKeyPath<Value, Subject>) -> Binding<Subject> { fatalError() }
}

// MARK: scenes

@MainActor
public protocol Scene {
  associatedtype Body: Scene
  @SceneBuilder var body: Body { get }
}

@resultBuilder
public struct SceneBuilder {
  public static func buildBlock<Content: Scene>(_ content: Content) -> Content { content }
}

extension Never {
  public var body: Never { fatalError() }
}

extension Never: Scene {}
extension Never: View {}

extension Scene {
  nonisolated public func onChange<V: Equatable>(
    of value: V, initial: Bool = false, _ action: @escaping (V, V) -> Void
  ) -> some Scene { EmptyScene() }
}

public struct EmptyScene: Scene {
  nonisolated init() {}
  public var body: Never { fatalError() }
}

@MainActor
public protocol App {
  associatedtype Body: Scene
  @SceneBuilder var body: Body { get }
}

extension App {
  public static func main() {}
}

public struct WindowGroup<Content: View>: Scene {
  nonisolated public init(@ViewBuilder content: () -> Content) {}
  public var body: Never { fatalError() }
}

// MARK: views

@MainActor
public protocol View {
  associatedtype Body: View
  @ViewBuilder var body: Body { get }
}

/// A view that SwiftUI draws.
public protocol Drawn: View where Body == Never {}

extension Drawn {
  public var body: Never { fatalError() }
}

public struct EmptyView: Drawn {
  nonisolated init() {}
}

@resultBuilder
public struct ViewBuilder {
  public static func buildBlock<each Content: View>(_ content: repeat each Content) -> TupleView<(repeat each Content)>
  {
    TupleView()
  }
  public static func buildIf<Content: View>(_ content: Content?) -> Content? { content }
  public static func buildEither<First: View, Second: View>(first: First) -> Conditional<First, Second> {
    Conditional()
  }
  public static func buildEither<First: View, Second: View>(second: Second) -> Conditional<First, Second> {
    Conditional()
  }
}

public struct TupleView<Content>: Drawn {
  nonisolated init() {}
}

public struct Conditional<First: View, Second: View>: Drawn {
  nonisolated init() {}
}

extension Optional: View where Wrapped: View {}
extension Optional: Drawn where Wrapped: View {}

public struct LocalizedStringKey: ExpressibleByStringInterpolation {
  public init(stringLiteral value: String) {}
}

public struct Text: Drawn, Equatable, Sendable {
  nonisolated public init<S: StringProtocol>(_ content: S) {}
  nonisolated public func bold() -> Text { self }
}

public struct Label<Title: View, Icon: View>: Drawn {}

extension Label where Title == Text, Icon == EmptyView {
  nonisolated public init(_ title: LocalizedStringKey, systemImage name: String) {}
}

public struct Button<Label: View>: Drawn {}

extension Button where Label == Text {
  nonisolated public init(_ title: LocalizedStringKey, action: @escaping @MainActor () -> Void) {}
}

public struct Toggle<Label: View>: Drawn {
  nonisolated public init(isOn: Binding<Bool>, @ViewBuilder label: () -> Label) {}
}

extension Toggle where Label == Text {
  nonisolated public init(_ title: LocalizedStringKey, isOn: Binding<Bool>) {}
}

public struct Stepper<Label: View>: Drawn {}

extension Stepper where Label == Text {
  nonisolated public init<V: Strideable>(
    _ title: LocalizedStringKey, value: Binding<V>, in bounds: ClosedRange<V>, step: V.Stride = 1,
    onEditingChanged: @escaping (Bool) -> Void = { _ in }
  ) {}
}

public struct Picker<Label: View, Selection: Hashable, Content: View>: Drawn {}

extension Picker where Label == Text {
  nonisolated public init(
    _ title: LocalizedStringKey, selection: Binding<Selection>, @ViewBuilder content: () -> Content
  ) {}
}

public struct TextField<Label: View>: Drawn {}

extension TextField where Label == Text {
  nonisolated public init(_ title: LocalizedStringKey, text: Binding<String>, axis: Axis) {}
}

public enum Axis: Int8, Sendable {
  public struct Set: OptionSet, Sendable {
    public init(rawValue: Int8) { self.rawValue = rawValue }
    public let rawValue: Int8
    public static let horizontal = Set(rawValue: 1)
  }

  case vertical
}

public struct ProgressView: Drawn {
  nonisolated public init() {}
}

public struct ForEach<Data: RandomAccessCollection, ID: Hashable, Content: View>: Drawn {
  nonisolated public init(
    _ data: Data, id: KeyPath<Data.Element, ID>, @ViewBuilder content: @escaping (Data.Element) -> Content
  ) {}
}

public struct List<Content: View>: Drawn {
  nonisolated public init(@ViewBuilder content: () -> Content) {}
}

public struct Section<Parent: View, Content: View, Footer: View>: Drawn {}

extension Section where Parent == Text, Footer == EmptyView {
  nonisolated public init(_ title: LocalizedStringKey, @ViewBuilder content: () -> Content) {}
}

extension Section where Parent == EmptyView, Footer == EmptyView {
  nonisolated public init(@ViewBuilder content: () -> Content) {}
}

public struct TabView<Content: View>: Drawn {
  nonisolated public init(@ViewBuilder content: () -> Content) {}
}

public struct NavigationStack<Root: View>: Drawn {
  nonisolated public init(@ViewBuilder root: () -> Root) {}
}

public struct ScrollView<Content: View>: Drawn {
  nonisolated public init(_ axes: Axis.Set, showsIndicators: Bool = true, @ViewBuilder content: () -> Content) {}
}

public struct HStack<Content: View>: Drawn {
  nonisolated public init(@ViewBuilder content: () -> Content) {}
}

public struct VStack<Content: View>: Drawn {
  nonisolated public init(alignment: HorizontalAlignment, @ViewBuilder content: () -> Content) {}
}

public struct Grid<Content: View>: Drawn {
  nonisolated public init(
    alignment: Alignment, horizontalSpacing: CGFloat? = nil, verticalSpacing: CGFloat? = nil,
    @ViewBuilder content: () -> Content
  ) {}
}

public struct GridRow<Content: View>: Drawn {
  nonisolated public init(@ViewBuilder content: () -> Content) {}
}

public struct ShareLink<Data: RandomAccessCollection, Label: View>: Drawn {}

extension ShareLink where Data.Element == URL, Label == Text {
  nonisolated public init(_ title: LocalizedStringKey, items: Data) {}
}

public struct HorizontalAlignment: Sendable {
  public static let leading = HorizontalAlignment()
}

public struct Alignment: Sendable {
  public static let trailing = Alignment()
}

// MARK: modifiers

public protocol ShapeStyle {}

public struct Color: ShapeStyle {}

extension ShapeStyle where Self == Color {
  public static var red: Color { Color() }
}

public struct Font: Sendable {
  public static let caption = Font()
  public static let footnote = Font()
  public func monospacedDigit() -> Font { self }
}

public protocol TextSelectability {}

public struct EnabledTextSelectability: TextSelectability {}

extension TextSelectability where Self == EnabledTextSelectability {
  public static var enabled: EnabledTextSelectability { EnabledTextSelectability() }
}

extension View {
  nonisolated public func font(_ font: Font?) -> some View { self }
  nonisolated public func foregroundStyle<S: ShapeStyle>(_ style: S) -> some View { self }
  nonisolated public func disabled(_ disabled: Bool) -> some View { self }
  nonisolated public func navigationTitle(_ title: LocalizedStringKey) -> some View { self }
  nonisolated public func toolbar<Content: View>(@ViewBuilder content: () -> Content) -> some View { self }
  nonisolated public func tag<V: Hashable>(_ tag: V) -> some View { self }
  nonisolated public func tabItem<V: View>(@ViewBuilder _ label: () -> V) -> some View { self }
  nonisolated public func textSelection<S: TextSelectability>(_ selectability: S) -> some View { self }
  nonisolated public func gridColumnAlignment(_ guide: HorizontalAlignment) -> some View { self }
  nonisolated public func onAppear(perform action: (() -> Void)? = nil) -> some View { self }
  nonisolated public func onDisappear(perform action: (() -> Void)? = nil) -> some View { self }
  nonisolated public func onChange<V: Equatable>(
    of value: V, initial: Bool = false, _ action: @escaping (V, V) -> Void
  ) -> some View { self }
  nonisolated public func refreshable(action: @escaping @Sendable () async -> Void) -> some View { self }
  nonisolated public func task(
    priority: TaskPriority = .userInitiated, @_inheritActorContext _ action: @escaping @Sendable () async -> Void
  ) -> some View { self }
}
